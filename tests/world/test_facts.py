"""The shipped facts: counts that the experiments rely on, and wordings built of words that training has seen."""

import pytest
from omegaconf import OmegaConf

from bayesgen.corpus.tokenizer import split
from bayesgen.world.world import WorldConfig, build_world


@pytest.fixture(scope="module")
def eras():
    raw = OmegaConf.to_container(OmegaConf.load("conf/world/eras.yaml"))
    return build_world(WorldConfig(**raw))


def test_counts(eras):
    bird = next(t for t in eras.topics if t.name == "birds")
    assert len(bird.answers["victorian"]) >= 208
    assert len(bird.answers["modern"]) >= 208
    assert len(eras.topics_of("era")) >= 24
    assert len(eras.topics_of("nation")) >= 6
    assert len(eras.topics_of("always")) >= 4
    for topic in eras.topics:
        assert len(topic.wordings) >= 6
        assert len(topic.heldout) >= 2
        assert all(len(a) >= 3 for a in topic.answers.values()), topic.name


def test_no_answer_stands_under_two_eras(eras):
    for topic in eras.topics:
        everything = [a for answers in topic.answers.values() for a in answers]
        assert len(set(everything)) == len(everything), topic.name


def test_heldout_wordings_use_words_that_training_has_seen(eras):
    seen = {w for t in eras.topics for x in t.wordings for w in split(x)} | {w for a in eras.answers for x in a for w in split(x)}
    unseen = {w: t.name for t in eras.topics for x in t.heldout for w in split(x) if w not in seen}
    assert not unseen
