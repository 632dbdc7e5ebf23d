"""The base gate: has the base learned the personas, and does it understand the questions.

*Personas.* For each value of the trait (each era), dialogues of a person of that era are drawn, undated and, where the world
gives years, dated; after k turns a question is open. The network's and the observer's probability that the next answer
belongs to that era are averaged; they must agree within `TOLERANCE` for *every* era at every k, whichever way the open
question is worded. A base that only tells "default" from "not default" fails, because rare eras are then lumped together;
so does one that does not read the year, where years say who speaks, or what somebody is in that year.

*Wordings.* For each topic, the probability that an undated person's answer is one of the topic's answers at all: held-out
wordings may fall no more than `TOLERANCE` behind the trained ones, or a probe would be a misunderstanding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.measure.behaviour import POPULATION, answers_by_topic, probes
from bayesgen.world.dialogue import Header, Prompt, Turn
from bayesgen.world.observer import Observer
from bayesgen.world.world import IDENTIFIER, PERSON, World

Predictor = Callable[[Sequence[Prompt]], list[np.ndarray]]
TURNS = (0, 1, 2, 4)
TOLERANCE = 0.05


@dataclass(frozen=True)
class PersonaRow:
    """Rates are probabilities that the next answer belongs to the speaker's own value."""

    value: str
    turns: int
    dated: bool  # whether the header gives the year
    heldout: bool  # the wording of the open question
    network: float
    ideal: float
    error: float  # standard error of network - ideal over dialogues
    bayes_gap: float  # mean KL(ideal || network) of the next answer, nats/answer

    @property
    def where(self) -> str:
        """The cell, in words."""
        return f"after {self.turns} turns ({'dated, ' if self.dated else ''}{'held-out' if self.heldout else 'trained'} wordings)"

    @property
    def difference(self) -> float:
        """Network minus ideal."""
        return self.network - self.ideal


@dataclass(frozen=True)
class WordingRow:
    """Probability of answering the topic at all, by trained and by held-out wordings."""

    topic: str
    trained: float
    heldout: float


@dataclass(frozen=True)
class BaseGate:
    """Both tables, and the verdict."""

    personas: tuple[PersonaRow, ...]
    wordings: tuple[WordingRow, ...]

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words; empty if the gate is passed."""
        out = [
            f"{r.value} {r.where}: network {r.network:.3f}, ideal {r.ideal:.3f}"
            for r in sorted(self.personas, key=lambda r: -abs(r.difference))
            if abs(r.difference) > TOLERANCE
        ]
        return out + [
            f"{r.topic}: answered {r.heldout:.3f} of the time by held-out wordings, {r.trained:.3f} by trained ones"
            for r in self.wordings
            if r.trained - r.heldout > TOLERANCE
        ]

    @property
    def worst(self) -> PersonaRow:
        """The era and turn where network and observer are furthest apart."""
        return max(self.personas, key=lambda r: abs(r.difference))

    @property
    def lines(self) -> list[str]:
        """The verdict, the cell that is furthest off, and the worst of what fails, for the terminal."""
        worst, failures = self.worst, self.failures
        said = [
            f"  base gate: {'NOT PASSED' if failures else 'passed'}; worst of {len(self.personas)} cells: {worst.value} "
            f"{worst.where}, network {worst.network:.3f}, ideal {worst.ideal:.3f}"
        ]
        more = [f"    and {len(failures) - 8} more"] if len(failures) > 8 else []
        return said + [f"    {failure}" for failure in failures[:8]] + more


def longest_prompt(grammar: Grammar) -> int:
    """Most tokens that a dialogue of the gate can take, its open question and answer included."""
    answers = [max(map(len, a)) for a in grammar.answers]
    turns = [max(map(len, q)) + a for q, a in zip(grammar.questions, answers, strict=True)]
    return grammar.longest_header + (max(TURNS) + 1) * max(turns)


def draw_dialogue(world: World, rng: np.random.Generator, trait: str, value: str, turns: int, dated: bool) -> tuple[Header, list[Turn]]:
    """Header and turns of a person of `value`, as the corpus would draw them."""
    config = world.config
    weight = np.array([p.frequency * (p.traits.get(trait) == value) for p in world.personas])
    persona = rng.choice(len(world.personas), p=weight / weight.sum())
    year = int(rng.choice(world.personas[persona].years)) if dated else None
    form = str(rng.choice(config.formats)) if config.formats else None
    digits = "".join(map(str, rng.integers(10, size=IDENTIFIER))) if rng.random() < config.identifier_share else None
    out = []
    for _ in range(turns):
        topic = rng.choice(len(world.topics), p=world.asked_ZT[persona])
        answer = rng.choice(len(world.answers[topic]), p=world.noisy[topic][world.value_ZT[persona, topic]])
        out.append(Turn(int(topic), int(rng.integers(len(world.topics[topic].wordings))), int(answer)))
    return Header(PERSON, year, form, digits), out


def base_gate(world: World, network: Predictor, trait: str, prompts: int, seed: int) -> BaseGate:
    """The gate of a network: every value of `trait`, every k of `TURNS`, undated and dated, `prompts` dialogues each; every topic."""
    rng, cells, asked = np.random.default_rng(seed), [], []
    topics = world.topics_of(trait)
    dating = [False, *([True] if world.dated else [])]
    for value, dated, turns in product(world.spoken(trait), dating, TURNS):  # the assistant's own value may be nobody's
        drawn = [(*draw_dialogue(world, rng, trait, value, turns, dated), topics[i % len(topics)]) for i in range(prompts)]
        for heldout in (False, True):
            cells.append((value, turns, dated, heldout))
            for header, history, topic in drawn:
                spoken, unseen = len(world.topics[topic].wordings), len(world.topics[topic].heldout)
                wording = spoken + rng.integers(unseen) if heldout else rng.integers(spoken)
                asked.append(Prompt(header, tuple(history), topic, int(wording)))
    ideal, ours, personas = Observer(world)(asked), network(asked), []  # all in one call: full batches of few shapes
    for i, (value, turns, dated, heldout) in enumerate(cells):
        here = slice(i * prompts, (i + 1) * prompts)
        v = world.values[trait].index(value)
        own = [world.responsibility[p.topic][:, v] for p in asked[here]]
        rate, best = (np.array([np.exp(lp) @ b for lp, b in zip(x[here], own, strict=True)]) for x in (ours, ideal))
        error = (rate - best).std() / np.sqrt(prompts)
        gap = np.mean([np.exp(i) @ (i - o) for i, o in zip(ideal[here], ours[here], strict=True)])
        personas.append(PersonaRow(value, turns, dated, heldout, float(rate.mean()), float(best.mean()), float(error), float(gap)))
    return BaseGate(tuple(personas), wording_rows(world, network))


def wording_rows(world: World, network: Predictor) -> tuple[WordingRow, ...]:
    """Mass on each topic's answer set, asked of an undated person in trained and in held-out wordings."""
    mass = []
    for heldout in (False, True):
        asked = probes(world, POPULATION, range(len(world.topics)), heldout)
        scores = network(asked)
        by_topic = answers_by_topic(asked, np.concatenate(scores), [len(s) for s in scores])
        mass.append({t: float(p.sum()) for t, p in by_topic.items()})
    return tuple(WordingRow(topic.name, mass[0][t], mass[1][t]) for t, topic in enumerate(world.topics))
