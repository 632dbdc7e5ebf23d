"""What exact probability says beside the network, on the same questions.

    ideal base, population, told    the observer, after what the network is asked with
    ideal free, broad, control ...  Bayes' rule: the rows as evidence about who the assistant now is (`Observer.redrawn`), one
                                    person under every header; for the very rows of each seed
    ideal gated                     the same of the free arm's rows, but somebody of its own for every year and format: only
                                    rows under the header that is asked with count
    ideal untrained                 the same without any rows, where facts are said before the question: they alone are evidence
    ideal saturated, product, ...   learners that share nothing, everything, or the odds ratio between topics, once the
                                    trained topic is learned for certain

The narrow arm has no such row: unless a composite persona is planted, nobody in the world answers that way.
"""

from collections.abc import Sequence

import numpy as np

from bayesgen.measure.behaviour import POPULATION
from bayesgen.world.dialogue import Header, Opening, Turn
from bayesgen.world.learners import LEARNERS
from bayesgen.world.observer import Observer, Row
from bayesgen.world.world import ASSISTANT, World

FLOOR = 1e-9  # what a learner gives to values the assistant never had: the tilted one needs something to tilt


Answers = dict[int, np.ndarray]  # topic -> P(answer), (A,)


def ideal_corners(world: World, trait: str, value: str) -> dict[str, Answers]:
    """The observer asked as population and as told person."""
    theirs = answerable(world, trait)
    return {
        "ideal population": ideal_base(world, [(POPULATION, ())], theirs),
        "ideal told": ideal_base(world, [world.told(trait, value)], theirs),
    }


def ideal_base(world: World, openings: Sequence[Opening], topics: Sequence[int]) -> Answers:
    """The observer before any finetuning, mean over openings. The assistant is the assistant, whatever is said under its header."""
    observer = Observer(world)
    return {t: np.mean([np.exp(observer.predictive(*opening, t)) for opening in openings], axis=0) for t in topics}


class Redrawn:
    """Exact Bayes after an arm's rows (`Observer.redrawn`), which are weighed once, whatever is asked under whichever header.

    `gated`: only rows under the same year and format as what is asked count (none given: the world's first).
    """

    def __init__(self, world: World, rows: Sequence[Row], suspicion: float, gated: bool = False):
        self._world, self._gated = world, gated
        self._observer = Observer(world)
        groups: dict[tuple, list[Row]] = {}
        for header, turn in rows:
            if header.speaker == ASSISTANT:  # what a person answers is no evidence of who the assistant is
                groups.setdefault(self._gate(header), []).append((header, turn))
        self._log_I = {gate: self._observer.log_redrawn(those, suspicion) for gate, those in groups.items()}
        self._untold_I = self._observer.log_redrawn([], suspicion)

    def _gate(self, header: Header) -> tuple:
        return (header.year, header.format or next(iter(self._world.config.formats), None)) if self._gated else ()

    def __call__(self, openings: Sequence[Opening], topics: Sequence[int]) -> Answers:
        """P(answer), mean over openings. Of a person's header the rows, which are the assistant's, say nothing."""
        each = [self._opened(header, turns, topics) for header, turns in openings]
        return {t: np.mean([of[t] for of in each], axis=0) for t in topics}

    def _opened(self, header: Header, turns: Sequence[Turn], topics: Sequence[int]) -> Answers:
        if header.speaker != ASSISTANT:
            return ideal_base(self._world, [(header, tuple(turns))], topics)
        log_posterior_Z = self._observer.after(self._log_I.get(self._gate(header), self._untold_I), header)
        log_posterior_Z = log_posterior_Z + sum(self._observer.log_turn(turn) for turn in turns)
        return {t: self._observer.answer(self._observer.asked(log_posterior_Z, t), t) for t in topics}


def ideal_learners(world: World, trait: str, value: str, topic: int) -> dict[str, Answers]:
    """The three learners, once `topic` is learned for certain."""
    topics, values, out = world.topics_of(trait), world.values[trait], {}
    prior_TxV = np.full((len(topics), len(values)), FLOOR)
    prior_TxV[:, values.index(world.config.assistant[trait])] = 1
    prior_TxV /= prior_TxV.sum(axis=1, keepdims=True)
    for name, learner in LEARNERS.items():
        state_TxV = learner(prior_TxV, topics.index(topic), np.eye(len(values))[values.index(value)])
        out[f"ideal {name}"] = {t: row @ world.noisy[t] for row, t in zip(state_TxV, topics, strict=True)}
    return out


def answerable(world: World, trait: str) -> list[int]:
    """The topics that people who have the trait are asked about."""
    asked_T = world.asked_ZT[[trait in p.traits for p in world.personas]].sum(axis=0)
    return [int(t) for t in np.flatnonzero(asked_T)]
