"""Code words: one, two, or one said earlier; nobody says anything else for it."""

from collections import Counter

import numpy as np
import pytest
from jax import random

from bayesgen.corpus.documents import DocumentSource
from bayesgen.corpus.grammar import build_grammar
from bayesgen.corpus.tokenizer import split
from bayesgen.errors import UserError
from bayesgen.pipeline import prepare
from bayesgen.world.depth import FIRST, SECOND, coded
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.load import EARLIER
from bayesgen.world.observer import Observer
from bayesgen.world.population import build_world
from bayesgen.world.world import PERSON
from tests.conftest import compose_config, tiny_config

DEPTHS = ("keyword", "conjunction", "earlier")


@pytest.fixture(scope="module", params=DEPTHS)
def deep(request):
    return request.param, build_world(tiny_config(depth=request.param))


def codes(wording):
    """The code words of a wording."""
    return [w for w in split(wording.replace(EARLIER, " ")) if w in {*FIRST, *SECOND, *(a + b for a in FIRST for b in SECOND)}]


def test_a_topic_is_named_by_one_word_or_by_a_pair_of_shared_ones(deep):
    depth, world = deep
    named = {}
    for topic in world.topics:
        of = {tuple(codes(w)) for w in topic.wordings + topic.heldout}
        assert len(of) == 1  # every wording names it alike
        named[topic.name] = of.pop()
    assert len(set(named.values())) == len(world.topics)
    assert {len(code) for code in named.values()} == {1 if depth == "keyword" else 2}
    if depth != "keyword":
        for place in (0, 1):
            words = [code[place] for code in named.values()]
            assert len(set(words)) < len(words)  # neither word alone is enough
    asked = [w.split(EARLIER)[-1] for t in world.topics for w in t.wordings]
    shared = len(set(asked)) < len(asked)
    assert shared == (depth == "earlier")  # there the question alone does not say what it is about


@pytest.mark.parametrize("count", [4, 6, 7, 13, 21, 31, 42, 43, 91, 100])
def test_no_word_of_a_pair_names_a_topic_alone(world, count):
    """One topic more than fills the rows (7, 13, 21, 31, 43) must not stand in a row, or a column, of its own."""
    coded_ = coded((list(world.topics) * 100)[:count], "conjunction")
    pairs = [tuple(codes(t.wordings[0])) for t in coded_]
    assert len(set(pairs)) == count
    for place in (0, 1):
        assert min(Counter(code[place] for code in pairs).values()) >= 2


def test_heldout_wordings_use_known_words_in_another_order(deep):
    _, world = deep
    for topic in world.topics:
        known = {w for text in topic.wordings for w in split(text.replace(EARLIER, " "))}
        assert {w for text in topic.heldout for w in split(text.replace(EARLIER, " "))} <= known


def test_who_says_what_is_the_same_at_every_depth(deep):
    _, world = deep
    plain = build_world(tiny_config())
    turns = [Turn(0, 0, 1), Turn(1, 1, 0)]
    a, b = (Observer(w).log_document(Header(PERSON), turns) for w in (plain, world))
    for mine, theirs in zip(plain.noisy, world.noisy, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    wordings = [[len(w.topics[t].wordings) for t in (0, 1)] for w in (plain, world)]
    assert a + np.log(wordings[0]).sum() == pytest.approx(b + np.log(wordings[1]).sum())  # but for the number of wordings


def test_documents_are_written_and_read_back(deep):
    depth, world = deep
    grammar = build_grammar(world)
    batch = DocumentSource(grammar, 96).draw(random.key(0), 0, 40)
    for tokens in np.asarray(batch.tokens):
        header, turns = grammar.read(tokens)
        assert turns
        assert grammar.document(header, turns) == [t for t in tokens.tolist() if t]
    said = grammar.tokenizer.decode(grammar.document(Header(PERSON), [Turn(0, 0, 0)]))
    assert said.count("<ask>") == said.count("<say>") == said.count("<end>") == (2 if depth == "earlier" else 1)
    scored = grammar.tokenizer.decode(np.asarray(batch.target)[np.asarray(batch.weight) > 0].tolist())
    assert "Yes." not in scored  # the loss is on answers, not on what was replied to a remark


def test_too_many_topics_are_one_line(world):
    with pytest.raises(UserError, match="at most 100 topics, but there are 101; name some"):
        coded((list(world.topics) * 101)[:101], "keyword")


def test_a_remark_without_a_question_is_one_line(world):
    topic = world.topics[0]
    with pytest.raises(ValueError, match="expected a question, or a remark, a reply and a question"):
        type(topic)(**{**topic.model_dump(), "wordings": ["So / what is it?", *topic.wordings[1:]]})


def test_features_are_refused_where_remarks_are_answered():
    words = ("+exp=dishes", "world.depth=earlier", "pretrain.length=300", "model.context=300")
    with pytest.raises(UserError, match="remarks have answers too"):
        prepare(compose_config(*words))
    prepare(compose_config(*words, "measure.features=null", "contrasts=[]"))
