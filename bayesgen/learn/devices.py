"""Devices: in which type they train, and what lies on which of several.

What members own is dealt out along its leading axis, what they share lies on every device. Nothing else changes: XLA runs each
member's part of the program where the member lies, and members do not speak to each other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bayesgen.hosts import fetched, several


def devices() -> list:
    """All devices of the kind that is computed on."""
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return jax.devices() if default is None else jax.devices(default.platform)


def training_type() -> type:
    """What a base is trained in: bfloat16 on an accelerator, float32 on a processor. Parameters and their updates are float32 on both."""
    return jnp.float32 if devices()[0].platform == "cpu" else jnp.bfloat16


def dealt(tree: Any) -> Any:
    """A pytree with the leading axis of every leaf over all devices; its length must be a multiple of their number."""
    return _put(tree, PartitionSpec("members"))


def shared(tree: Any) -> Any:
    """A pytree on every device."""
    return _put(tree, PartitionSpec())


def spare(members: int) -> int:
    """How many more members make a multiple of the number of devices."""
    return -members % len(devices())


def filled(tree: Any) -> Any:
    """A pytree of arrays, the first row of each once more until all devices have as many: stand-ins, whom nobody asks what they learn."""
    more = spare(len(jax.tree.leaves(tree)[0]))
    return jax.tree.map(lambda x: jnp.concatenate([x, *[x[:1]] * more]), tree) if more else tree


def spread(tree: Any) -> Any:
    """The same as `dealt`, of what a program computes on its way: otherwise every device might compute all of it."""
    return tree if len(devices()) == 1 else jax.lax.with_sharding_constraint(tree, _over(PartitionSpec("members")))


def _put(tree: Any, spec: PartitionSpec) -> Any:
    if len(devices()) == 1:
        return tree
    if not several():
        return jax.device_put(tree, _over(spec))

    def from_here(x):
        """Every host has all of it, and gives its own devices their part."""
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(from_here(jax.random.key_data(x)))
        whole = fetched(x)
        return jax.make_array_from_callback(whole.shape, _over(spec), lambda part: whole[part])

    return jax.tree.map(from_here, tree)


def _over(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices()), ("members",)), spec)
