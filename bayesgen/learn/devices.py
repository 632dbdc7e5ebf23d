"""Several devices: what members own is dealt out over them along its leading axis, what they share lies on every one.

Nothing else changes: XLA runs each member's part of the program where the member lies, and members do not speak to each other.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def devices() -> list:
    """All devices of the kind that is computed on."""
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return jax.devices() if default is None else jax.devices(default.platform)


def dealt(tree: Any) -> Any:
    """A pytree with the leading axis of every leaf over all devices; its length must be a multiple of their number."""
    return _put(tree, PartitionSpec("members"))


def shared(tree: Any) -> Any:
    """A pytree on every device."""
    return _put(tree, PartitionSpec())


def spare(members: int) -> int:
    """How many more members make a multiple of the number of devices."""
    return -members % len(devices())


def _put(tree: Any, spec: PartitionSpec) -> Any:
    those = devices()
    if len(those) == 1:
        return tree
    return jax.device_put(tree, NamedSharding(Mesh(np.array(those), ("members",)), spec))
