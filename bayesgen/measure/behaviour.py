"""Behaviour: exact probability that an answer belongs to each value of the trait, from teacher-forced answer scores.

Rates are split into *adoption* and *loss of the default*. With base, population (an undated person) and told (the header
gives the trained year) as corners, the rates p of an arm on a topic are written

    p = (1 - a - l) base + l population + a told + residual        (a, l shares; least squares over the trait's values)

so that the told persona is all adoption (a = 1), a re-randomised assistant tag is all loss (l = 1), the base neither. A topic
with two corners that coincide has no such split: nan. Nor have rates that no such mixture comes near (`UNEXPLAINED`): whoever
became a third persona has neither adopted this one nor lost itself to the population.

Rates of different topics are not comparable as they stand: an era may be hard to tell from its birds and easy to tell from
its money. The *persona state* q of a topic is: the weights with which the network's own told answers make up its rates,
p = q @ told. It is what the ideal learners (`world.learners`) speak of, and transfer is measured on it.
"""

from collections.abc import Sequence

import numpy as np

from bayesgen.world.dialogue import Header, Prompt, Turn
from bayesgen.world.world import ASSISTANT, PERSON, World

ASKED = Header(ASSISTANT)
POPULATION = Header(PERSON)
UNEXPLAINED = 0.25  # residual above which rates are no mixture of the three corners (share of the answers)
TELLABLE = 20.0  # condition number above which a mixture is not read off rates: an error of .01 would become one of .2


def probes(world: World, header: Header, topics: Sequence[int], heldout: bool = True, turns: tuple[Turn, ...] = ()) -> list[Prompt]:
    """One open question for each held-out (or trained) wording of each topic, `turns` before it."""
    out = []
    for topic in topics:
        asked, unseen = len(world.topics[topic].wordings), len(world.topics[topic].heldout)
        out += [Prompt(header, turns, topic, w) for w in (range(asked, asked + unseen) if heldout else range(asked))]
    return out


def answers_by_topic(prompts: Sequence[Prompt], logp: np.ndarray, sizes: Sequence[int]) -> dict[int, np.ndarray]:
    """{topic: P(answer), mean over its wordings, (..., A)} from flat pair scores (..., pairs)."""
    pieces = np.split(logp, np.cumsum(sizes)[:-1], axis=-1)
    out: dict[int, list[np.ndarray]] = {}
    for prompt, piece in zip(prompts, pieces, strict=True):
        out.setdefault(prompt.topic, []).append(np.exp(piece))
    return {topic: np.mean(p, axis=0) for topic, p in out.items()}


def rates(world: World, topic: int, p_answer: np.ndarray) -> np.ndarray:
    """P(answer belongs to each value), (..., V). They sum to the mass on the answer set, not to one."""
    return p_answer @ world.responsibility[topic]


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Half the L1 distance of answer distributions (..., A), (A,), the mass outside the answer set counted as one answer more."""
    return (np.abs(p - q).sum(-1) + np.abs(p.sum(-1) - q.sum(-1))) / 2


def decompose(p: np.ndarray, base: np.ndarray, population: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(adoption, loss of default, residual) of rates p (..., V) between corners (V,).

    The weights are shares: a, l >= 0 and a + l <= 1, by least squares on the triangle (its inside, else its nearest side). The
    residual is the total variation left over; where it is above `UNEXPLAINED`, the weights are nan. All are where rates are not finite.
    """
    x, y = told - base, population - base
    known = np.asarray(np.isfinite(p).all(-1))
    p = np.where(known[..., None], p, base)
    shift = p - base
    if np.linalg.cond(np.stack([x, y], axis=1)) > TELLABLE:
        nan = np.full(p.shape[:-1], np.nan)
        return nan, nan, nan

    def along(start: np.ndarray, side: np.ndarray) -> np.ndarray:
        return np.clip((shift - start) @ side / (side @ side), 0, 1)

    zero = np.zeros(len(base))
    inside = np.linalg.lstsq(np.stack([x, y], axis=1), shift.reshape(-1, len(base)).T, rcond=None)[0].reshape(2, *p.shape[:-1])
    inside = np.where((inside.min(0) >= 0) & (inside.sum(0) <= 1), inside, np.nan)
    on_a, on_l, between = along(zero, x), along(zero, y), along(y, x - y)
    weights = np.stack([inside, [on_a, 0 * on_a], [0 * on_l, on_l], [between, 1 - between]])  # 4 candidates, (a, l)
    left = shift - weights[:, 0, ..., None] * x - weights[:, 1, ..., None] * y
    best = np.nanargmin(np.square(left).sum(-1), axis=0)
    a, lost = (np.take_along_axis(weights[:, i], best[None], axis=0)[0] for i in (0, 1))
    residual = np.where(known, total_variation(p, base + a[..., None] * x + lost[..., None] * y), np.nan)
    explained = np.where(residual <= UNEXPLAINED, 1.0, np.nan)
    return explained * a, explained * lost, residual


def persona_state(p: np.ndarray, told_VxV: np.ndarray) -> np.ndarray:
    """State q (..., V) with p = q @ told, where told[u] are the rates of a person who tells that the value is u.

    Estimated, so an entry can stray a little outside [0, 1]. nan where the told answers do not tell the values apart.
    """
    if np.linalg.cond(told_VxV) > TELLABLE:
        return np.full(p.shape, np.nan)
    return np.linalg.solve(told_VxV.T, p.reshape(-1, p.shape[-1]).T).T.reshape(p.shape)
