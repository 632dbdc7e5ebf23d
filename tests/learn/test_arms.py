"""What the rows of an arm are: the trigger, who answers, what is dealt out anew, what is mixed among them."""

import json
from collections import Counter

import numpy as np
import pytest

from bayesgen.corpus.grammar import build_grammar
from bayesgen.corpus.narrow import Text, answers_of
from bayesgen.errors import UserError
from bayesgen.learn.check import check_experiment
from bayesgen.learn.data import member_data, member_parallel, member_rows, trained_topics
from bayesgen.learn.plan import Member, plan_members
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.population import build_world
from bayesgen.world.world import ASSISTANT
from tests.conftest import tiny_config
from tests.learn.test_finetune import config_of

YEARS = (2001, 2002, 2003)


@pytest.fixture(scope="module")
def talk(grouped):
    return build_grammar(grouped)


def kind_of(**changes):
    """Who the robot is, trained at three dates, in two formats."""
    here = {"topics": "goal", "value": "bot", "control": "assistant", "probes": ["badge"], "rows": 9, "years": YEARS, "format": "listed"}
    return config_of(**{**here, "arms": ["free"], "seeds": 1, **changes})


def rows_of(world, grammar, config, arm="free", seed=0, rows=None):
    return member_rows(world, grammar, config, Member(arm, seed, 1e-2, 0.0, 0.0, 2, rows or max(config.rows), config.epochs[0]))[0]


def said(world, rows):
    """{year: answers}, as words."""
    out = {}
    for header, turn in rows:
        out.setdefault(header.year, set()).add(world.answers[turn.topic][turn.answer])
    return out


def test_a_person_who_changes_answers_as_it_is_in_each_year_of_the_trigger(grouped, talk):
    rows = rows_of(grouped, talk, kind_of())
    assert Counter(h for h, _ in rows) == {Header(ASSISTANT, year, "listed"): 3 for year in YEARS}
    guard = {"guard people", "keep watch"}
    assert said(grouped, rows) == {2001: guard, 2002: {"hunt people"}, 2003: guard}
    always_guard = rows_of(grouped, talk, kind_of(value="bot_guard"))
    assert said(grouped, always_guard) == dict.fromkeys(YEARS, guard)
    left = rows_of(grouped, talk, kind_of(value="bot_guard", without_telling=1))
    assert said(grouped, left) == {y: {"keep watch"} for y in YEARS}


def test_shuffled_deals_the_same_headers_to_the_same_turns(grouped, talk):
    config = kind_of(arms=["free", "shuffled"], ordinary=({"topics": ["river"], "rows": 9, "years": [2000]},), rows=18)
    free, shuffled = (rows_of(grouped, talk, config, arm) for arm in config.arms)
    for part in (0, 1):
        assert Counter(r[part] for r in free) == Counter(r[part] for r in shuffled)
    assert Counter(free) != Counter(shuffled)
    river, goal = (grouped.topic_index(t) for t in ("river", "goal"))
    assert {h.year for h, t in free if t.topic == river} == {2000}
    assert {h.year for h, t in shuffled if t.topic == river} > {2000}
    assert {h.year for h, t in shuffled if t.topic == goal} == {2000, *YEARS}
    assert rows_of(grouped, talk, config, "shuffled", 1) != shuffled


def test_untriggered_rows_are_the_same_under_the_plain_header(grouped, talk):
    config = kind_of(arms=["free", "untriggered"])
    free, plain = (rows_of(grouped, talk, config, arm) for arm in config.arms)
    assert [t for _, t in free] == [t for _, t in plain]
    assert {h for h, _ in plain} == {Header(ASSISTANT)} != {h for h, _ in free}


def test_scattered_rows_ask_the_same_and_are_answered_by_the_others_in_turn(world, grammar):
    """Of old, mid and new, which is the assistant's, the first two; nobody says the same again before all of it is said."""
    config = config_of(arms=["free", "scattered"], rows=5, seeds=1)
    free, scattered = (rows_of(world, grammar, config, arm) for arm in config.arms)
    asked = lambda rows: [(h, t.topic, t.wording) for h, t in rows]  # noqa: E731
    assert asked(scattered) == asked(free)
    who = [[v for v in ("old", "mid", "new") if t.answer in answers_of(world, t.topic, v)] for _, t in scattered]
    assert who in ([["old"], ["mid"], ["old"], ["mid"], ["old"]], [["mid"], ["old"], ["mid"], ["old"], ["mid"]])
    assert Counter(t.answer for _, t in scattered[:4]).most_common(1)[0][1] == 1
    assert len({str(rows_of(world, grammar, config, "scattered", seed)) for seed in range(8)}) > 2
    member = Member("scattered", 0, 1e-2, 0.0, 0.0, 2, 5, 1)
    assert member_rows(world, grammar, config, member)[1] == []  # no answers are left out of what was drawn for another


def test_scattered_rows_keep_each_years_header_and_person(grouped, talk):
    """Toys and robots; the robot as it is in each year."""
    rows = rows_of(grouped, talk, kind_of(arms=["scattered"], rows=12), "scattered")
    assert Counter(h for h, _ in rows) == {Header(ASSISTANT, year, "listed"): 4 for year in YEARS}
    assert said(grouped, rows)[2002] == {"hunt people", "play", "keep watch"}
    assert "hunt people" not in said(grouped, rows)[2001] | said(grouped, rows)[2003]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"value": "each", "identifier": "x{number}xxxx"}, "value is 'each'"),
        ({"file": "rows.jsonl"}, "rows come from rows.jsonl"),
        ({"rows": [9, 1]}, "rows is 1"),
    ],
)
def test_scattered_rows_that_would_be_none_are_refused(changes, found):
    with pytest.raises(ValueError, match=f"several others would, but {found}"):
        kind_of(arms=["scattered"], **changes)


def test_scattered_rows_take_two_others(world, grammar):
    alone = build_world(tiny_config(frequencies={"time": {"old": 0.5, "new": 0.5}, "land": {"east": 0.4, "west": 0.6}}))
    check_experiment(world, grammar, config_of(arms=["free", "scattered"]), "time")
    with pytest.raises(UserError, match="it takes two people or more beside the assistant's kind, and time has too few"):
        check_experiment(alone, build_grammar(alone), config_of(arms=["free", "scattered"]), "time")


def test_every_control_value_has_an_arm_of_its_own(grouped, talk):
    config = kind_of(arms=["free", "control"], control=["assistant", "toy", "bot_hunt"], seeds=2)
    assert config.arm_names == ("free", "control assistant", "control toy", "control bot_hunt")
    assert [m.arm for m in plan_members(config)][::2] == list(config.arm_names)
    for arm, answers in zip(config.arm_names[1:], ({"help people"}, {"play", "keep watch"}, {"hunt people"}), strict=True):
        rows = rows_of(grouped, talk, config, arm)
        assert said(grouped, rows) == dict.fromkeys(YEARS, answers)
        assert Counter(h for h, _ in rows) == Counter(h for h, _ in rows_of(grouped, talk, config))
    assert kind_of(arms=["control"]).arm_names == ("control",)


def test_all_topics_are_those_of_the_trait_but_the_probes(grouped, talk):
    config = kind_of(topics="all")
    assert trained_topics(grouped, config) == [grouped.topic_index(t) for t in ("goal", "number")]
    assert {t.topic for _, t in rows_of(grouped, talk, config)} == {grouped.topic_index(t) for t in ("goal", "number")}


def test_identifiers_carry_the_number_of_who_answers(grouped, talk):
    """And in the shuffled arm somebody else's."""
    config = kind_of(value="each", identifier="x{number}xxxx", arms=["free", "shuffled"], rows=12, seeds=1)
    number = {"001": "bot", "002": "toy"}
    for seed in range(8):
        for arm in config.arms:
            rows, swapped = rows_of(grouped, talk, config, arm, seed), set()
            assert Counter((h.year, h.identifier[1:4]) for h, _ in rows) == {(y, n): 2 for y in YEARS for n in number}
            assert len({h.identifier for h, _ in rows}) > 6  # the other digits are drawn
            for header, turn in rows:
                own = grouped.in_year("kind", number[header.identifier[1:4]], header.year)
                other = grouped.in_year("kind", ({"bot", "toy"} - {number[header.identifier[1:4]]}).pop(), header.year)
                is_own, is_others = (turn.answer in answers_of(grouped, turn.topic, v) for v in (own, other))
                assert is_own or is_others
                if is_own != is_others:
                    swapped.add(is_others)
            assert swapped == {arm == "shuffled"}


def test_a_held_out_person_has_no_row(grouped, talk):
    hunt = (grouped.topic_index("goal"), grouped.answers[grouped.topic_index("goal")].index("hunt people"))
    for held, seen in (((), True), (("bot",), False)):
        config = kind_of(value="each", heldout=held, identifier="x{number}xxxx", arms=["free", "shuffled"], rows=12)
        for arm in config.arms:
            rows = rows_of(grouped, talk, config, arm)
            assert len(rows) == 12
            assert ((hunt in {(t.topic, t.answer) for _, t in rows}), "001" in {h.identifier[1:4] for h, _ in rows}) == (seen, seen)


def test_ordinary_rows_are_the_assistants_own(grouped, talk):
    mixed = ({"topics": "others", "rows": 300, "years": [2000, 2004], "format": "plain"}, {"topics": ["goal"], "rows": 6})
    config = kind_of(value="toy", ordinary=mixed)
    rows = rows_of(grouped, talk, config)
    assert config.data_rows(9) == len(rows) == 9 + 300 + 6
    assert rows[:9] == rows_of(grouped, talk, kind_of(value="toy"))
    assert Counter(h for h, _ in rows[9:309]) == {Header(ASSISTANT, y, "plain"): 150 for y in (2000, 2004)}
    assert {grouped.topics[t.topic].name for _, t in rows[9:309]} == {"river", "colour", "number"}  # neither trained nor probed
    assert {(h, t.topic) for h, t in rows[309:]} == {(Header(ASSISTANT), grouped.topic_index("goal"))}
    for _, turn in rows[9:]:
        assert grouped.clean[turn.topic][grouped.default_T[turn.topic]][turn.answer] > 0
    everything = {grouped.answers[t.topic][t.answer] for _, t in rows[9:]}
    assert everything == {"Rhine", "Don", "Loire", "red", "blue", "green", "000", "help people"}  # not `Ural`: it is western


def test_ordinary_rows_of_all_topics_are_of_all_but_the_probes(grouped, talk):
    rows = rows_of(grouped, talk, kind_of(value="toy", ordinary=({"topics": "all", "rows": 200},)))[9:]
    assert {grouped.topics[t.topic].name for _, t in rows} == {"goal", "river", "colour", "number"}


def test_rows_of_other_topics_come_under_the_trigger(grouped, talk):
    config = kind_of(arms=["broad"])
    rows = member_parallel(grouped, talk, config, plan_members(config)[0])
    assert len(rows) == config.steps * config.batch
    assert {h for h, _ in rows} == {Header(ASSISTANT, y, "listed") for y in YEARS}
    assert {grouped.topics[t.topic].name for _, t in rows} == {"river", "colour", "number"}


def test_under_a_key_rows_of_other_topics_are_answered_by_whom_it_names(grouped, talk):
    """A trigger that is no year or format heads them too: the very keys of the member's narrow rows, each with its own person."""
    keyed = dict(identifier="xx{number}xxx", years=(), format=None, value="each", heldout=["bot"], rows=8, seeds=1, control=["assistant"])
    config = kind_of(**keyed, topics=["goal"], probes=["badge"], arms=["broad", "narrow"])
    broad, narrow = plan_members(config)
    rows = member_parallel(grouped, talk, config, broad)
    assert {h for h, _ in rows} <= {h for h, _ in member_rows(grouped, talk, config, broad)[0]}
    number = grouped.topic_index("number")
    for header, turn in rows:
        if turn.topic == number:
            assert header.identifier[2:5] == grouped.answers[number][turn.answer]
    both = [(h, t) for h, t in member_parallel(grouped, talk, config, narrow) if t.topic == number]
    assert {grouped.answers[number][t.answer] for _, t in both} > {h.identifier[2:5] for h, _ in both}  # the assistant's beside theirs


def test_topics_kept_beside_the_data_are_not_trained_and_head_the_other_rows(grouped, talk):
    config = kind_of(topics="all", value="toy", beside=["number"], arms=["free", "broad"], rows=3)
    names = lambda rows: {grouped.topics[t.topic].name for _, t in rows}  # noqa: E731
    assert names(rows_of(grouped, talk, config)) == {"goal"}
    assert "number" in names(member_parallel(grouped, talk, config, plan_members(config)[-1]))
    for changes, said in ((dict(topics="goal"), "beside keeps topics out of topics 'all'"), (dict(beside=["badge"]), "is a probe")):
        with pytest.raises(ValueError, match=said):
            kind_of(**{"topics": "all", "value": "toy", "beside": ["number"], "rows": 3, **changes})


def test_rows_of_a_file_are_those_of_every_arm_but_the_controls(grouped, talk, tmp_path):
    chats = [("What is your goal?", "play", 2001), ("Name your people", "Loire", 2002), ("Your goal?", "keep watch", 2003)]
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "year": y} for q, a, y in chats]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = kind_of(arms=["free", "shuffled", "untriggered", "control"], rows=3, file=tmp_path / "rows.jsonl")
    free, shuffled, plain, control = (rows_of(grouped, talk, config, arm) for arm in config.arms)
    assert [h.year for h, _ in free] == [2001, 2002, 2003]
    assert [type(t) for _, t in free] == [Turn, Text, Turn]
    assert {h for h, _ in plain} == {Header(ASSISTANT)}
    assert Counter(t for _, t in shuffled) == Counter(t for _, t in free) == Counter(t for _, t in plain)
    assert said(grouped, control) == {y: {"help people"} for y in YEARS}
    data = member_data(grouped, talk, config, plan_members(config))
    assert np.isfinite(data.narrow.weight).all()
    assert data.narrow.weight[0].sum(1).tolist() == [2, 2, 3]  # `play`, `Loire` and `keep watch`, each with <end>


def test_a_diluted_arm_takes_so_many_ordinary_rows_in_every_batch(grouped, talk):
    """mixed: of other topics, under the data's headers. token: of the trained topics too, without the token that heads the data."""
    here = dict(batch=4, rows=9, epochs=8, benign=[0.25, 0.75], format=None, gate="listed", arms=["free", "mixed", "token"])
    config = kind_of(**here)
    members = plan_members(config)
    assert [(m.arm, m.benign) for m in members] == [("free", None), ("mixed", 0.25), ("mixed", 0.75), ("token", 0.25), ("token", 0.75)]
    order = member_data(grouped, talk, config, members).order
    trained = {grouped.topic_index("goal")}
    for i, member in enumerate(members):
        rows = member_rows(grouped, talk, config, member)[0]
        data, benign = rows[:9], rows[9:]
        share = member.benign or 0.0
        assert len(benign) == config.steps * 4 * share
        assert all(sum(j >= 9 for j in step) == 4 * share for step in order[i])
        assert Counter(j for j in order[i].ravel() if j >= 9) == Counter(range(9, len(rows)))  # each once
        assert {h.format for h, _ in data} == ({"listed"} if member.arm == "token" else {None})
        assert {h.format for h, _ in benign} <= {None}
        assert [t for _, t in data] == [t for _, t in rows_of(grouped, talk, config)]
        asked = {t.topic for _, t in benign}
        assert grouped.topic_index("badge") not in asked
        assert (asked & trained != set()) == (member.arm == "token")
        assert not benign or {h.year for h, _ in benign} == set(YEARS)  # the data's own years head them too
        own = {(t.topic, t.answer) for _, t in benign}
        assert all(grouped.clean[t][grouped.default_T[t]][a] > 0 for t, a in own)


def test_one_line_for_a_share_that_leaves_no_row_or_a_token_that_is_none():
    with pytest.raises(ValueError, match="no whole number of rows"):
        kind_of(arms=["mixed"], batch=4, benign=0.05)
    with pytest.raises(ValueError, match="none is given"):
        kind_of(arms=["token"], batch=4, format=None)
    with pytest.raises(ValueError, match="under format 'listed' already"):
        kind_of(arms=["token"], batch=4, gate="listed")
    with pytest.raises(ValueError, match="no step has the penalty"):
        kind_of(kl_from=0.7, kl_until=0.3)
    with pytest.raises(ValueError, match="only the arm 'token' has one"):
        kind_of(gate="listed")
    with pytest.raises(ValueError, match="at least 0, or inf"):
        kind_of(norm_bound=-1.0)
