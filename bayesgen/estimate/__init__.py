"""Estimators of what a solution costs. Each takes any loss over any pytree and knows nothing of worlds or transformers."""

from collections.abc import Sequence

import numpy as np
from jax import Array
from jaxtyping import Float

Number = float | int | Float[Array, ""]
Numbers = Sequence[float] | Sequence[int] | Float[np.ndarray, " N"] | Float[Array, " N"]
