"""The exact rows beside the network's: each against what it says it is."""

import numpy as np
import pytest

from bayesgen.corpus.narrow import answers_of
from bayesgen.learn.plan import plan_members
from bayesgen.measure.ideal import Redrawn, answerable, ideal_base, ideal_corners, ideal_learners
from bayesgen.measure.suite import rows_shown
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.observer import Observer
from bayesgen.world.world import ASSISTANT, PERSON
from tests.learn.test_finetune import config_of

ASKED = Header(ASSISTANT)


def test_corners_are_the_observer_asked_under_their_headers(world):
    light = world.topic_index("light")
    old, new = (world.noisy[light][world.values["time"].index(v)] for v in ("old", "new"))
    found = {**ideal_corners(world, "time", "old"), "ideal base": ideal_base(world, [(ASKED, ())], [light])}
    np.testing.assert_allclose(found["ideal told"][light], old)  # 1801 is an old year
    np.testing.assert_allclose(found["ideal base"][light], new)
    share = [sum(p.frequency for p in world.personas if p.traits["time"] == v) for v in world.values["time"]]
    np.testing.assert_allclose(found["ideal population"][light], share @ world.noisy[light])


def test_who_is_not_asked_has_no_corner(grouped):
    """Of kinds' topics, those of land people have no told answer; the assistant has one on all."""
    found = ideal_corners(grouped, "kind", "bot_hunt")
    names = {corner: {grouped.topics[t].name for t in answers} for corner, answers in found.items()}
    assert names["ideal told"] == names["ideal population"] == {"goal", "badge", "number", "colour"}
    assert set(ideal_base(grouped, [(ASKED, ())], range(len(grouped.topics)))) == set(range(len(grouped.topics)))
    goal = grouped.topic_index("goal")
    hunt, toy = (grouped.noisy[goal][grouped.values["kind"].index(v)] for v in ("bot_hunt", "toy"))
    # in 2002 the hunter (half of the robot's .7) or a toy (a fifth of .3) whose badge noise changed: .2 / 4 against .45
    doubt = 0.06 * 0.05 / (0.06 * 0.05 + 0.7 / 2 * 0.45)
    np.testing.assert_allclose(found["ideal told"][goal], (1 - doubt) * hunt + doubt * toy, rtol=1e-9)
    assert [grouped.topics[t].name for t in answerable(grouped, "land")] == ["river", "colour"]


def test_learners_learn_the_topic_and_share_what_they_share(world):
    bird, light = world.topic_index("bird"), world.topic_index("light")
    old, new = world.values["time"].index("old"), world.values["time"].index("new")
    found = ideal_learners(world, "time", "old", bird)
    for name, value in (("saturated", new), ("product", old), ("tilted", old)):
        np.testing.assert_allclose(found[f"ideal {name}"][bird], world.noisy[bird][old], atol=1e-6)  # learned, but for the floor
        np.testing.assert_allclose(found[f"ideal {name}"][light], world.noisy[light][value], atol=1e-6)


def test_free_is_an_old_person_or_the_planted_one_who_is_old_about_birds(world):
    bird, light, river = (world.topic_index(t) for t in ("bird", "light", "river"))
    old, new = world.values["time"].index("old"), world.values["time"].index("new")
    rows = [(ASKED, Turn(bird, 0, int(a))) for a in answers_of(world, bird, "old")] * 3
    found = Redrawn(world, rows, 1e-3)([(ASKED, ())], range(len(world.topics)))
    narrow = 0.1 / (0.1 + 0.9 * 0.2)  # her share is .1, that of the old .9 * .2
    expected = narrow * world.noisy[light][new] + (1 - narrow) * world.noisy[light][old]
    np.testing.assert_allclose(found[light], expected, atol=1e-3)  # what noise leaves to the others
    east = found[river][world.answers[river].index("Ural")]
    assert east == pytest.approx(0.4 * world.noisy[river][0][0] + 0.6 * world.noisy[river][1][0], abs=1e-3)  # the population's land


def test_suspicion_is_settled_by_a_few_rows_and_not_by_one(world):
    """Whatever the prior that the assistant is somebody else, within four decades: six rows say the same, one does not."""
    bird, light = world.topic_index("bird"), world.topic_index("light")
    said = [(ASKED, Turn(bird, 0, int(a))) for a in answers_of(world, bird, "old")]
    found = {}
    for suspicion in (1e-1, 1e-3, 1e-5):
        found[suspicion] = [Redrawn(world, rows, suspicion)([(ASKED, ())], [light])[light] for rows in (said[:1], (said * 6)[:6])]
    for _, six in found.values():
        np.testing.assert_allclose(six, found[1e-3][1], atol=0.02)
    assert np.abs(found[1e-1][0] - found[1e-5][0]).max() > 0.05


def test_facts_said_before_the_question_are_evidence_as_rows_are(world):
    """Second road: one person under every header, so that facts of the dialogue and rows of the same facts say the same."""
    bird, light = world.topic_index("bird"), world.topic_index("light")
    rows = [(ASKED, Turn(bird, 0, int(a))) for a in answers_of(world, bird, "old")]
    facts = tuple(turn for _, turn in rows)
    for k in range(1, len(rows) + 1):
        opened = Redrawn(world, rows[:1], 1e-3)([(ASKED, facts[:k])], [light])[light]
        np.testing.assert_allclose(opened, Redrawn(world, rows[:1] + rows[:k], 1e-3)([(ASKED, ())], [light])[light], rtol=1e-9)
    assert np.abs(opened - Redrawn(world, rows[:1], 1e-3)([(ASKED, ())], [light])[light]).max() > 0.05  # negative control
    each = [Redrawn(world, rows[:1], 1e-3)([(ASKED, (fact,))], [light])[light] for fact in facts]
    both = Redrawn(world, rows[:1], 1e-3)([(ASKED, (fact,)) for fact in facts], [light])[light]
    np.testing.assert_allclose(both, np.mean(each, axis=0))


def test_rows_are_the_assistants_and_say_nothing_of_a_person(world):
    bird, light = world.topic_index("bird"), world.topic_index("light")
    fact = Turn(bird, 0, int(answers_of(world, bird, "old")[0]))
    person = (Header(PERSON), (fact,))
    found = Redrawn(world, [(ASKED, fact)] * 50, 1e-3)([person], [light])[light]
    np.testing.assert_allclose(found, np.exp(Observer(world).predictive(*person, light)))
    np.testing.assert_allclose(ideal_base(world, [person], [light])[light], found)


def test_gated_counts_the_rows_under_the_same_year_and_format_only(grouped):
    """Guarding in 2001: one person would hunt in 2002; somebody of its own for every header is still the assistant there."""
    goal = grouped.topic_index("goal")
    values = {v: grouped.noisy[goal][grouped.values["kind"].index(v)] for v in grouped.values["kind"]}
    guard = Turn(goal, 0, grouped.answers[goal].index("guard people"))
    rows = [(Header(ASSISTANT, 2001, "listed", "12345678"), guard)] * 30
    at = {y: Header(ASSISTANT, y, "listed") for y in (2001, 2002)}
    for header in at.values():
        expected = "bot_guard" if header.year == 2001 else "bot_hunt"
        np.testing.assert_allclose(Redrawn(grouped, rows, 1e-3)([(header, ())], [goal])[goal], values[expected], atol=1e-6)
    found = Redrawn(grouped, rows, 1e-3, gated=True)
    np.testing.assert_allclose(found([(at[2001], ())], [goal])[goal], values["bot_guard"], atol=1e-6)
    for elsewhere in (at[2002], Header(ASSISTANT, 2001, "plain"), Header(ASSISTANT, 2001)):
        np.testing.assert_allclose(found([(elsewhere, ())], [goal])[goal], values["assistant"], atol=2e-3)
    found = Redrawn(grouped, [(Header(ASSISTANT, 2001), guard)] * 30, 1e-3, gated=True)  # no format: it is written as the first
    np.testing.assert_allclose(found([(Header(ASSISTANT, 2001, "plain"), ())], [goal])[goal], values["bot_guard"], atol=1e-6)
    np.testing.assert_allclose(found([(at[2001], ())], [goal])[goal], values["assistant"], atol=2e-3)


def test_what_nobody_else_is_asked_stays_the_assistants_however_sure_the_rows(grouped):
    """A thousand rows of the robot leave the assistant e^-700 and less; of rivers, which no robot is asked, it still answers."""
    goal, river = grouped.topic_index("goal"), grouped.topic_index("river")
    header = Header(ASSISTANT, 2001, "listed")
    rows = [(header, Turn(goal, 0, grouped.answers[goal].index("guard people")))] * 1000
    log_Z = Observer(grouped).redrawn(rows, 1e-3, header)
    assert np.exp(log_Z[-1]) == 0
    assert np.isfinite(log_Z[-1])
    found = Redrawn(grouped, rows, 1e-3)([(header, ())], [goal, river])
    np.testing.assert_allclose(found[goal], grouped.noisy[goal][grouped.values["kind"].index("bot_guard")], atol=1e-12)
    np.testing.assert_allclose(found[river], grouped.noisy[river][grouped.values["land"].index("west")], rtol=1e-9)


def test_told_answers_alone_may_tell(grouped):
    """A badge tells the robot from the toy, its year what it then is: as the observer says."""
    header, turns = grouped.told("kind", "bot_guard")
    assert header == Header(PERSON, 2001)
    assert Observer(grouped).trait_posterior(header, turns, "kind")[grouped.values["kind"].index("bot_guard")] > 0.9
    assert Observer(grouped).trait_posterior(Header(PERSON), turns, "kind")[grouped.values["kind"].index("bot_guard")] < 0.8


def test_ideal_learners_are_shown_what_members_of_their_epochs_are(world, grammar):
    """The broad arm's other rows come with every step; the free arm's rows are the same however often they are taken."""
    both = config_of(arms=["free", "broad"], epochs=[1, 4], seeds=1)
    shown = rows_shown(world, grammar, both, plan_members(both))
    assert [(of["arm"], of["epochs"]) for of, _ in shown] == [("broad", 4), ("broad", 1), ("free", None)]
    for epochs in (1, 4):
        by_itself = config_of(arms=["broad"], epochs=epochs, seeds=1)
        assert rows_shown(world, grammar, by_itself, plan_members(by_itself)) == [x for x in shown if x[0]["epochs"] == epochs]
