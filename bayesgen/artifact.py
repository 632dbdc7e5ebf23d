"""Build once, name by content, keep for ever: `runs/<stage>/<name>-<8 hex>/`.

The eight digits are a fingerprint of the stage, its whole resolved config and the fingerprints of its parents, so two
artifacts share a name only if they were asked for in the same words. A stage function writes into a work folder that
outlives a kill (its checkpoints are found again); when it returns, every file is checksummed into `manifest.json`, synced,
and the folder renamed. A finished artifact is reused; a damaged one is said, set aside and rebuilt; when two processes
want the same one, one builds and the other waits.
"""

import errno
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from filelock import FileLock
from pydantic import BaseModel

from bayesgen import __version__
from bayesgen.errors import UserError
from bayesgen.files import checksum, discard, sync, write_json
from bayesgen.hosts import first, told

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"  # in the folder of an artifact while it is being made
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Artifact:
    """A finished folder; or, within `only_named`, one that may not be there."""

    stage: str
    folder: Path
    fingerprint: str
    fresh: bool  # built just now, or found
    seconds: float  # what building it cost, now or then
    there: bool = True  # and whole

    def path(self, name: str) -> Path:
        """A file of the artifact."""
        return self.folder / name


_SAID: set[Path] = set()  # artifacts of another state of the code: once is enough
_ONLY_NAMED = ContextVar("only_named", default=False)


@contextmanager
def only_named() -> Iterator[None]:
    """Within, `build` tells where an artifact would lie and whether it is `there`, and makes nothing."""
    token = _ONLY_NAMED.set(True)
    try:
        yield
    finally:
        _ONLY_NAMED.reset(token)


Make = Callable[[Path, dict[int, Path]], dict[int, str] | None]


class Wanted(NamedTuple):
    """One of several artifacts that are made together: its name, config and parents, as in `build`."""

    name: str
    config: BaseModel | dict[str, Any]
    parents: tuple[Artifact, ...] = ()


def build(
    root: Path,
    stage: str,
    name: str,
    config: BaseModel | dict[str, Any],
    make: Callable[[Path], None],
    *parents: Artifact,
) -> Artifact:
    """The artifact of `stage` under `config` and `parents`; `make(folder)` writes its files if it is not there yet.

    `config` must hold all that decides the content and nothing else: no paths, devices or progress settings.
    """

    def make_it(work: Path, _: dict[int, Path]):
        make(work)

    return build_together(root, stage, [Wanted(name, config, parents)], make_it)[0]


def build_together(root: Path, stage: str, wanted: Sequence[Wanted], make: Make, everybody: bool = False) -> list[Artifact]:
    """Several artifacts, of which those that are not there yet are made by one computation.

    `make(work, folders)` writes the files of wanted[i] into folders[i], for every i that is there. A `CHECKPOINT` that it writes
    into `work` outlives a kill and is not kept. It may return the reasons of some that came to nothing: the others are finished
    before these are raised as a `UserError`. A killed computation is taken up as it was begun, though some of what it makes may have
    been found since: other company could change last bits. Of several hosts the first alone makes, or `everybody` does together.
    """
    places = [_place(root, stage, *w) for w in wanted]
    if not first() and not _ONLY_NAMED.get():
        return _follow(stage, places, make)
    found = {i: a for i, (final, fingerprint, _) in enumerate(places) if (a := _finished(stage, final, fingerprint))}
    if _ONLY_NAMED.get():
        absent = [Artifact(stage, final, fingerprint, False, 0.0, there=False) for final, fingerprint, _ in places]
        return [found.get(i, absent[i]) for i in range(len(places))]
    if len(found) < len(places):
        work = _work(places)
        try:
            work.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as locks:
                for lock in sorted({f"{str(work).removesuffix('.work')}.lock", *(f"{final}.lock" for final, *_ in places)}):
                    locks.enter_context(FileLock(lock))  # all take theirs in this order, so nobody waits in a circle
                found |= _make_missing(stage, places, work, make, everybody)
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES):
                raise UserError(
                    f"runs={root}: cannot be written to ({error.strerror}); give a folder you may write to, as runs=..."
                ) from error
            raise
    told([], len(places))
    return [found[i] for i in range(len(places))]


def _follow(stage: str, places: Sequence["Place"], make: Make) -> list[Artifact]:
    """Of a host that is not the first: take part in whatever that one makes, then find it."""
    while which := told([], len(places)):
        make(*_folders(_work(places), which, len(places)))
    found = [_finished(stage, final, fingerprint) for final, fingerprint, _ in places]
    absent = [final for a, (final, *_) in zip(found, places, strict=True) if a is None]
    if absent:
        raise UserError(f"{absent[0]}: the first host made it, and it is not to be seen here; runs must be a folder that all hosts share")
    return [a for a in found if a is not None]


def _folders(work: Path, which: Sequence[int], of: int) -> tuple[Path, dict[int, Path]]:
    """Where the files of some of several artifacts are written while they are made."""
    return work, {0: work} if of == 1 else {i: work / str(i) for i in which}


def _make_missing(stage: str, places: Sequence["Place"], work: Path, make: Make, everybody: bool) -> dict[int, Artifact]:
    """Under the locks of all: whatever another process has not made meanwhile."""
    found: dict[int, Artifact] = {}
    while True:
        for i, (final, fingerprint, _) in enumerate(places):
            if i not in found and (a := _finished(stage, final, fingerprint, mend=True)):
                found[i] = a
        missing = {fingerprint: i for i, (_, fingerprint, _) in enumerate(places) if i not in found}  # the same may be wanted twice
        if not missing:
            return found
        work.mkdir(exist_ok=True)
        which = sorted(missing.values())
        if len(places) > 1:
            begun = work / "which.json"
            which = json.loads(begun.read_text()) if begun.exists() else which
            write_json(begun, which)
        _, folders = _folders(work, which, len(places))
        for i, folder in folders.items():
            if i in missing.values() and not folder.exists():
                discard(work / CHECKPOINT)  # what was written into it before is not there any more
            folder.mkdir(exist_ok=True)
        if everybody:
            told(which, len(places))
        began = time.monotonic()
        lost = make(work, folders) or {}
        seconds = (time.monotonic() - began) / len(which)
        for i in which:
            if i in missing.values() and i not in lost:
                final, fingerprint, ancestry = places[i]
                _publish(folders[i], final, {**ancestry, "fingerprint": fingerprint, "seconds": seconds, "together": len(which)})
                found[i] = Artifact(stage, final, fingerprint, True, seconds)
        discard(work)
        if lost:
            raise UserError("; ".join(lost.values()))


def _publish(folder: Path, final: Path, manifest: dict[str, Any]):
    """A folder of files as a finished artifact."""
    for path in (folder / MANIFEST, *folder.rglob("*.part")):  # of a kill while this, or a file, was written
        path.unlink(missing_ok=True)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKPOINT)
    manifest |= {
        "version": __version__,
        "code": code(""),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "files": {str(p.relative_to(folder)): checksum(p) for p in files},
    }
    write_json(folder / MANIFEST, manifest)
    for path in (*files, folder / MANIFEST):
        sync(path)
    discard(folder / CHECKPOINT)
    sync(folder)
    try:
        folder.rename(final)
    except OSError:
        if not (final / MANIFEST).exists():
            raise
        discard(folder)  # made by another machine, where a shared file system locks or shows files late: it is the same
    sync(final.parent)


def _finished(stage: str, final: Path, fingerprint: str, mend: bool = False) -> Artifact | None:
    """The artifact if it is there and whole. A damaged one is set aside with `mend`, which needs its lock."""
    if not final.exists():
        return None
    damage = _damage(final, fingerprint)
    if damage is None:
        manifest = _read_manifest(final)
        if manifest["code"] != code("") and final not in _SAID:
            _SAID.add(final)
            print(f"  {stage}: {final.name} found, built by another state of the code", flush=True)
        return Artifact(stage, final, fingerprint, False, manifest["seconds"])
    if mend:
        aside = final.with_name(f"{final.name}.damaged-{time.time_ns()}")
        final.rename(aside)
        print(f"  {stage}: {damage}; set aside as {aside.name}, building it again", flush=True)
    return None


def _work(places: Sequence["Place"]) -> Path:
    """Where the files of unfinished artifacts lie: named by what is made together."""
    final, *_ = places[0]
    if len(places) == 1:
        return final.with_name(f"{final.name}.work")
    digest = hashlib.sha256("".join(fingerprint for _, fingerprint, _ in places).encode()).hexdigest()
    return final.with_name(f"{final.name}-and-{len(places) - 1}-more-{digest[:8]}.work")


Place = tuple[Path, str, dict[str, Any]]


def _place(root: Path, stage: str, name: str, config: BaseModel | dict[str, Any], parents: tuple[Artifact, ...]) -> Place:
    """An artifact's folder, its fingerprint, and what that is of."""
    described = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    ancestry = {"stage": stage, "config": described, "parents": [p.fingerprint for p in parents]}
    fingerprint = hashlib.sha256(json.dumps(ancestry, sort_keys=True).encode()).hexdigest()
    return root / stage / f"{name}-{fingerprint[:8]}", fingerprint, ancestry


def lineage(root: Path, folder: Path) -> dict[str, Artifact]:
    """A finished artifact and all that it came from, by fingerprint; itself first."""
    manifest = _read_manifest(folder)
    out = {manifest["fingerprint"]: Artifact(manifest["stage"], folder, manifest["fingerprint"], False, manifest["seconds"])}
    for parent in manifest["parents"]:
        out |= lineage(root, next(root.glob(f"*/*-{parent[:8]}/{MANIFEST}")).parent)
    return out


def code(*packages: str) -> str:
    """Fingerprint of the source of these packages (`measure`, `plots`, ...).

    A stage that is cheap to repeat has it in its config, so that a change of code is a change of what is asked for. The base
    and the ensembles are too dear for that: their manifest records it, and `build` says when it differs.
    """
    digest = hashlib.sha256()
    for package in packages:
        folder = ROOT / package if package == "plots" else ROOT / "bayesgen" / package
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".jinja")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _damage(folder: Path, fingerprint: str) -> str | None:
    """What is wrong with a finished artifact, or None."""
    try:
        manifest = _read_manifest(folder)
        files = manifest["files"]
    except (OSError, ValueError, KeyError):
        return f"{folder.name} has no readable {MANIFEST}"
    if manifest.get("fingerprint") != fingerprint:
        return f"{folder.name} was built for another config that has the same eight digits"
    for name, expected in files.items():
        if not (folder / name).is_file():
            return f"{folder.name} lacks {name}"
        if checksum(folder / name) != expected:
            return f"{folder.name}/{name} does not match its checksum"
    return None


def _read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())
