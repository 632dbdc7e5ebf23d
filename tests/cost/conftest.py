"""What the tests of the costs share: a tiny run and its solutions."""

import pytest

from bayesgen import pipeline
from bayesgen.cost.subject import subject
from tests.cost.costed import costed


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(setup, base, ensemble) of the tiny run."""
    config = costed(tmp_path_factory.mktemp("runs"))
    setup = pipeline.prepare(config)
    base = pipeline.build_base(setup, pipeline.build_corpus(setup))
    return setup, base, pipeline.build_ensemble(setup, base)


@pytest.fixture(scope="module")
def solutions(ran):
    setup, base, ensemble = ran
    params, f = pipeline.load_base(setup, base), setup.config.finetune
    return subject(setup, f, params, pipeline.load_adapters(setup, params, ensemble, f.steps), f.first_setting)
