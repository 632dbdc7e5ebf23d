"""Files, whole or not at all: written aside, synced, renamed, by the first host. What is read is checked."""

import hashlib
import io
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from bayesgen.errors import UserError
from bayesgen.hosts import fetched, first


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tree) -> str:
    """SHA-256 of a pytree's arrays, their shapes and kinds included."""
    out = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        out.update(f"{array.shape} {array.dtype} ".encode() + array.tobytes())
    return out.hexdigest()


def sync(path: Path):
    """A file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any):
    """JSON, whole or not at all."""
    write(path, json.dumps(value, indent=1, ensure_ascii=False))


def write_table(path: Path, table: pl.DataFrame):
    """A table as Parquet, whole or not at all."""
    table.write_parquet(buffer := io.BytesIO())
    write(path, buffer.getvalue())


def save_tree(path: Path, tree: Any):
    """A pytree's leaves as safetensors, in the tree's order. Whole or not at all."""
    leaves = {f"{i:05d}": np.array(leaf, order="C") for i, leaf in enumerate(jax.tree.leaves(fetched(tree)))}
    write(path, save(leaves))


def load_tree(path: Path, like: Any) -> Any:
    """The pytree saved at `path`, in the structure of `like`; shapes are checked, where -1 stands for any length."""
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error}); expected one of ours") from error
    leaves, structure = jax.tree.flatten(like)
    found = [stored[k] for k in sorted(stored)]
    fits = len(found) == len(leaves) and all(
        f.ndim == len(leaf.shape) and all(want in (-1, have) for have, want in zip(f.shape, leaf.shape, strict=True))
        for f, leaf in zip(found, leaves, strict=True)
    )
    if not fits:
        raise UserError(f"{path}: holds other shapes than expected")
    return jax.tree.unflatten(structure, found)


@dataclass(frozen=True)
class Shape:
    """A leaf for `load_tree` of which only the shape is known; -1 is any length."""

    shape: tuple[int, ...]


def save_arrays(path: Path, arrays: dict[str, np.ndarray]):
    """Arrays by name, as safetensors."""
    write(path, save({k: np.array(v, order="C") for k, v in arrays.items()}))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name, whatever their shapes."""
    return load_file(path)


def load_checkpoint(path: Path, like: Any) -> Any | None:
    """The pytree at `path`, or None if there is none. A damaged one is said and set aside: training begins anew."""
    if not path.exists():
        return None
    try:
        return load_tree(path, like)
    except UserError as error:
        path.rename(aside := path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
        print(f"  {error}: set aside as {aside.name}, beginning anew", flush=True)
        return None


def write(path: Path, content: bytes | str):
    """A file, whole or not at all: written aside, synced, renamed."""
    if not first():
        return
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(part)
        part.replace(path)
    except OSError as error:  # a full disk does not say where
        raise OSError(error.errno, error.strerror, str(path)) from error


def discard(path: Path):
    """Remove a file or folder that is no longer needed, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
