"""What has been built, and how to free it."""

import json
from pathlib import Path

from bayesgen.artifact import MANIFEST, discard


def list_artifacts(runs: Path):
    """Print every finished artifact: its size, age in build seconds, and parents."""
    for manifest in sorted(runs.glob(f"*/*/{MANIFEST}")):
        found = json.loads(manifest.read_text())
        size = sum(p.stat().st_size for p in manifest.parent.rglob("*") if p.is_file())
        parents = " ".join(p[:8] for p in found["parents"]) or "-"
        print(f"{found['stage']:<10}{manifest.parent.name:<44}{size / 1e6:>9.1f} MB{found['seconds']:>9.1f} s   from {parents}")


def clean(runs: Path):
    """Remove set-aside, unfinished and lock leftovers; finished artifacts stay."""
    for pattern in ("*/*.damaged-*", "*/*.work", "*/*.lock"):
        for path in runs.glob(pattern):
            discard(path)
            print(f"removed {path}")


GOALS = {"list": list_artifacts, "clean": clean}
