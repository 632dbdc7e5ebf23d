"""What the tests of the costs share: a tiny run and its solutions."""

import pytest

from bayesgen import pipeline, training
from bayesgen.cost.subject import subject
from tests.cost.costed import costed


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(setup, base, ensemble) of the tiny run."""
    config = costed(tmp_path_factory.mktemp("runs"))
    setup = pipeline.prepare(config)
    base = training.build_base(setup, pipeline.build_corpus(setup))
    return setup, base, training.build_ensemble(setup, base)


@pytest.fixture(scope="module")
def solutions(ran):
    setup, base, ensemble = ran
    params, f = training.load_base(setup, base), setup.config.finetune
    return subject(setup, f, params, training.load_adapters(setup, params, ensemble, f.steps), f.first_setting)
