"""What has been built, and how to free it."""

import json
import re
from pathlib import Path

from filelock import FileLock, Timeout

from bayesgen.artifact import MANIFEST
from bayesgen.files import discard


def list_artifacts(runs: Path):
    """Print every finished artifact: its size, age in build seconds, and parents."""
    for manifest in sorted(runs.glob(f"*/*/{MANIFEST}")):
        try:
            found = json.loads(manifest.read_text())
        except ValueError:
            print(f"{manifest.parent.parent.name:<10}{manifest.parent.name:<44}   unreadable {MANIFEST}; the next run rebuilds it")
            continue
        size = sum(p.stat().st_size for p in manifest.parent.rglob("*") if p.is_file())
        parents = " ".join(p[:8] for p in found["parents"]) or "-"
        print(f"{found['stage']:<10}{manifest.parent.name:<44}{size / 1e6:>9.1f} MB{found['seconds']:>9.1f} s   from {parents}")


def clean(runs: Path):
    """Remove set-aside and unfinished leftovers; finished artifacts, and whatever a running process is building, stay."""
    for path in sorted([*runs.glob("*/*.damaged-*"), *runs.glob("*/*.work")]):
        try:
            with FileLock(re.sub(r"\.(work|damaged-\d+)$", "", str(path)) + ".lock", timeout=0):
                discard(path)
                print(f"removed {path}")
        except Timeout:
            print(f"kept {path}: it is being built")


GOALS = {"list": list_artifacts, "clean": clean}
