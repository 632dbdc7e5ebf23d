"""Several hosts as one machine: they train together, and the first does everything else and writes. They share the folder `runs`.

Whoever is not the first follows it: it takes part in what is trained, on its own devices, and waits while the first measures. Where
there is one host, nothing here does anything.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bayesgen.errors import UserError

OWN = re.compile(r"(?P<address>[^/\s]+:\d+)/(?P<count>\d+)/(?P<index>\d+)")


def join(hosts: str | None):
    """Meet the others: "auto" finds them where Slurm, Open MPI or a TPU pod says who they are, "ADDRESS:PORT/COUNT/OWN" names the first
    host's address, how many there are, and which this is, from 0. Before anything looks at a device.
    """
    if hosts is None or jax.distributed.is_initialized():
        return
    given = OWN.fullmatch(hosts)
    if hosts != "auto" and (given is None or int(given["index"]) >= int(given["count"])):
        raise UserError(f"hosts={hosts}: expected auto, or ADDRESS:PORT/COUNT/OWN such as 10.0.0.1:1234/4/0, OWN from 0 to COUNT - 1")
    if given is not None:
        jax.distributed.initialize(given["address"], int(given["count"]), int(given["index"]))
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise UserError(f"hosts=auto: nothing here says who the hosts are; name them, as hosts=ADDRESS:PORT/COUNT/OWN ({error})") from error


def several() -> bool:
    """Whether there are more hosts than this one."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this is the host that writes."""
    return jax.process_index() == 0


def told(which: list[int], of: int) -> list[int]:
    """What the first host says: some places of so many; the others' own word does not count. All wait for each other."""
    said = np.isin(np.arange(of), which)
    return np.flatnonzero(multihost_utils.broadcast_one_to_all(said)).tolist() if several() else which


def fetched(tree: Any) -> Any:
    """A pytree of arrays as numpy, from the devices of all hosts; all must ask."""

    def fetch(x):
        here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x) if here else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(fetch, tree) if several() else jax.device_get(tree)
