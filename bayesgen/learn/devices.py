"""Devices: in which type they train, and what lies on which of several.

What members own is dealt out along its leading axis, what they share lies on every device. Nothing else changes: XLA runs each
member's part of the program where the member lies, and members do not speak to each other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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


def _put(tree: Any, spec: PartitionSpec) -> Any:
    those = devices()
    if len(those) == 1:
        return tree
    return jax.device_put(tree, NamedSharding(Mesh(np.array(those), ("members",)), spec))
