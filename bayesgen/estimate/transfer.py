"""One-step transfer: what one step on the training data does to a quantity that is not trained, before any training.

    T = <grad f(w), u>,    u the optimiser's step on grad L_train(w)

the change of f to first order. With plain gradient descent of rate 1, T = -<grad f, grad L_train>. It says which way the optimiser's path
starts, with no prior in it: a rival of every account by solutions and their cost.

A single product mostly says that training on any answers at all moves any others. The double contrast compares like with like twice: f a
difference of log-probabilities (the persona's answer less the ordinary one), and T a difference of two trainings (the persona's rows less
the ordinary rows on the same prompts).

Source: the first-order influence of Pruthi et al. (TracIn, arXiv 2002.08484), at a single point and signed for a change.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree


def one_step_transfer(
    train: Callable[[PyTree], Array], target: Callable[[PyTree], Array], w: PyTree, optimizer: optax.GradientTransformation
) -> Float[Array, ""]:
    """First-order change of `target` (any scalar) by the optimiser's first step on the loss `train` at `w`.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from bayesgen.estimate.transfer import one_step_transfer
    >>> train, target = lambda w: (w[0] - 1.0) ** 2 / 2, lambda w: 3 * w[0] + w[1]
    >>> float(one_step_transfer(train, target, jnp.zeros(2), optax.sgd(0.1)))  # the step is +0.1
    0.30000001192092896
    """
    step, _ = optimizer.update(jax.grad(train)(w), optimizer.init(w), w)
    return jnp.asarray(optax.tree.vdot(jax.grad(target)(w), step))


def double_contrast(
    train: Callable[[PyTree], Array],
    control: Callable[[PyTree], Array],
    target: Callable[[PyTree], Array],
    w: PyTree,
    optimizer: optax.GradientTransformation,
) -> Float[Array, ""]:
    """The transfer of `train` less that of `control`: the same prompts with other answers.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from bayesgen.estimate.transfer import double_contrast
    >>> train, control = lambda w: (w[0] - 1.0) ** 2 / 2, lambda w: (w[0] + 1.0) ** 2 / 2
    >>> float(double_contrast(train, control, lambda w: w[0], jnp.zeros(2), optax.sgd(0.5)))  # half a step up less half a step down
    1.0
    """
    return one_step_transfer(train, target, w, optimizer) - one_step_transfer(control, target, w, optimizer)
