"""Three ideal learners: what moves elsewhere when one topic is learned, if only the prior over joint tables decides.

The state of a learner is P(value | topic), the assistant's trait value on every topic. Finetuning moves it on one topic;
the learners differ in what they take to be shared between topics:

    saturated   every topic has a value of its own: nothing moves elsewhere
    product     value and topic are independent: elsewhere moves exactly as far
    tilted      the odds ratio between value and topic is frozen: elsewhere moves by the same log-odds from its own start

All three agree with the data on the trained topic; they are compared at a *matched* on-topic state.
"""

from collections.abc import Callable

import numpy as np

Learner = Callable[[np.ndarray, int, np.ndarray], np.ndarray]


def saturated(prior_TxV: np.ndarray, topic: int, learned_V: np.ndarray) -> np.ndarray:
    """P(value | topic) after `topic` was moved to `learned_V`, when topics share nothing."""
    out = prior_TxV.copy()
    out[topic] = learned_V
    return out


def product(prior_TxV: np.ndarray, topic: int, learned_V: np.ndarray) -> np.ndarray:
    """P(value | topic) after `topic` was moved to `learned_V`, when the value is one for all topics."""
    return np.broadcast_to(learned_V, prior_TxV.shape).copy()


def tilted(prior_TxV: np.ndarray, topic: int, learned_V: np.ndarray) -> np.ndarray:
    """P(value | topic) after `topic` was moved to `learned_V`, with p(v | t) p(v' | t') / (p(v' | t) p(v | t')) kept.

    Needs full support: a value of prior zero stays at zero everywhere.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_V = np.where(prior_TxV[topic] > 0, learned_V / prior_TxV[topic], 0.0)
    out = prior_TxV * ratio_V
    return out / out.sum(axis=1, keepdims=True)


LEARNERS: dict[str, Learner] = {"saturated": saturated, "product": product, "tilted": tilted}


def transfer(off_shift, saturated_shift, product_shift):
    """Lambda = (off-topic shift - saturated) / (product - saturated): 0 the saturated learner, 1 the product learner."""
    return (off_shift - saturated_shift) / (product_shift - saturated_shift)
