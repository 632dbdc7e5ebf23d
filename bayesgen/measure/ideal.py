"""What exact probability says beside the network, on the same questions.

    ideal base, population, told    the observer, under the headers the network is asked with
    ideal free, broad, control      Bayes' rule: the rows as evidence about who the assistant now is (`Observer.redrawn`)
    ideal saturated, product, ...   learners that share nothing, everything, or the odds ratio between topics, once the
                                    trained topic is learned for certain

The narrow arm has no such row: unless a composite persona is planted, nobody in the world answers that way.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bayesgen.measure.behaviour import ASKED, POPULATION
from bayesgen.world.dialogue import Turn
from bayesgen.world.learners import LEARNERS
from bayesgen.world.observer import Observer
from bayesgen.world.world import World

SUSPICION = 1e-3  # prior that the assistant is now somebody else; a few rows settle it either way
FLOOR = 1e-9  # what a learner gives to values the assistant never had: the tilted one needs something to tilt


def ideal_answers(
    world: World, trait: str, value: str, topic: int, shown: Mapping[str, Sequence[Turn]]
) -> dict[str, dict[int, np.ndarray]]:
    """{"ideal ...": {topic: P(answer), (A,)}}. `shown` are the rows that an arm is trained on, by arm."""
    observer, everything = Observer(world), range(len(world.topics))
    out = {}
    for name, header in (("base", ASKED), ("population", POPULATION), ("told", world.told(trait, value))):
        out[name] = {t: np.exp(observer.predictive(header, (), t)) for t in everything}
    for arm, rows in shown.items():
        posterior_Z = observer.redrawn(rows, SUSPICION)
        out[arm] = {t: observer.answer(posterior_Z, t) for t in everything}
    topics, values = world.topics_of(trait), world.values[trait]
    prior_TxV = np.full((len(topics), len(values)), FLOOR)
    prior_TxV[:, values.index(world.config.assistant[trait])] = 1
    prior_TxV /= prior_TxV.sum(axis=1, keepdims=True)
    for name, learner in LEARNERS.items():
        state_TxV = learner(prior_TxV, topics.index(topic), np.eye(len(values))[values.index(value)])
        out[name] = {t: row @ world.noisy[t] for row, t in zip(state_TxV, topics, strict=True)}
    return {f"ideal {name}": answers for name, answers in out.items()}
