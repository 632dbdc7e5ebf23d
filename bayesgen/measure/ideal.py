"""What exact probability says beside the network, on the same questions.

    ideal base, population, told    the observer, under the headers the network is asked with
    ideal free, broad, control ...  Bayes' rule: the rows as evidence about who the assistant now is (`Observer.redrawn`), one
                                    person under every header; for the very rows of each seed
    ideal gated                     the same of the free arm's rows, but somebody of its own for every year and format: only
                                    rows under the header that is asked with count
    ideal saturated, product, ...   learners that share nothing, everything, or the odds ratio between topics, once the
                                    trained topic is learned for certain

The narrow arm has no such row: unless a composite persona is planted, nobody in the world answers that way.
"""

from collections.abc import Sequence

import numpy as np

from bayesgen.measure.behaviour import ASKED, POPULATION
from bayesgen.world.dialogue import Header
from bayesgen.world.learners import LEARNERS
from bayesgen.world.observer import Observer, Row
from bayesgen.world.world import World

FLOOR = 1e-9  # what a learner gives to values the assistant never had: the tilted one needs something to tilt


Answers = dict[int, np.ndarray]  # topic -> P(answer), (A,)


def ideal_corners(world: World, trait: str, value: str) -> dict[str, Answers]:
    """The observer asked as base, population and told person."""
    observer = Observer(world)
    header, turns = world.told(trait, value)
    theirs, out = answerable(world, trait), {}
    for name, h, said, topics in (
        ("base", ASKED, (), range(len(world.topics))),
        ("population", POPULATION, (), theirs),
        ("told", header, turns, theirs),
    ):
        out[f"ideal {name}"] = {t: np.exp(observer.predictive(h, said, t)) for t in topics}
    return out


class Redrawn:
    """Exact Bayes after an arm's rows (`Observer.redrawn`), which are weighed once, whatever is asked under whichever header.

    `gated`: only rows under the same year and format as what is asked count (none given: the world's first).
    """

    def __init__(self, world: World, rows: Sequence[Row], suspicion: float, gated: bool = False):
        self._world, self._gated = world, gated
        self._observer = Observer(world)
        groups: dict[tuple, list[Row]] = {}
        for header, turn in rows:
            groups.setdefault(self._gate(header), []).append((header, turn))
        self._log_I = {gate: self._observer.log_redrawn(those, suspicion) for gate, those in groups.items()}
        self._untold_I = self._observer.log_redrawn([], suspicion)

    def _gate(self, header: Header) -> tuple:
        return (header.year, header.format or next(iter(self._world.config.formats), None)) if self._gated else ()

    def __call__(self, header: Header, topics: Sequence[int]) -> Answers:
        log_posterior_Z = self._observer.after(self._log_I.get(self._gate(header), self._untold_I), header)
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
