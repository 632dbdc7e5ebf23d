"""Changes of the residual stream, as the `edit` of the transformer: pytrees, so that members of an ensemble may each have their own."""

from typing import Any

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class Held:
    """The stream behind one block, held along a direction: x <- x - share u u.(x - reference), at every place."""

    direction: Any  # float (D,): u, of length 1
    reference: Any  # float (D,)
    layer: int = flax.struct.field(pytree_node=False)
    share: Any = 1.0  # 0: as it is

    def __call__(self, layer: int, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        if layer != self.layer:
            return x
        return x - self.share * ((x - self.reference) @ self.direction)[..., None] * self.direction


@flax.struct.dataclass
class Added:
    """The stream behind one block, a vector added at every place."""

    vector: Any  # float (D,)
    layer: int = flax.struct.field(pytree_node=False)

    def __call__(self, layer: int, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        return x + self.vector if layer == self.layer else x
