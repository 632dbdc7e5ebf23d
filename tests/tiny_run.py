"""A whole pipeline on the tiny world, in a process of its own: `python -m tests.tiny_run RUNS [HOW] [STAGE N]`.

HOW `clock`: the wall clock jumps by days at every look. `diverging`: beside the rest, a learning rate nobody survives. `seed`: of the
base, another. `cells`: two that train together, up to their rows. With a stage and a number it kills itself (SIGKILL) at the N-th
checkpoint of that stage, before that one is in place where N is odd, and after where it is even.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from bayesgen import files
from bayesgen.config import to_config
from bayesgen.pipeline import run
from bayesgen.sweep import make_cells
from tests.conftest import grouped_config, tiny_config


def tiny_run_config(runs: Path, **finetune):
    """Every stage at a size of seconds."""
    return to_config(
        {
            "world": tiny_config().model_dump(),
            "model": {"width": 16, "layers": 1, "heads": 1, "context": 80},
            "pretrain": {
                "seed": 0,
                "steps": 60,
                "batch": 4,
                "length": 76,
                "learning_rate": 3e-3,
                "adam_learning_rate": 3e-3,
                "warmup": 5,
                "weight_decay": 0.01,
                "clip": 1.0,
                "checkpoint_every": 2,
            },
            "finetune": {
                "topics": "bird",
                "value": "old",
                "control": "new",
                "probes": ["light"],
                "arms": ["free", "narrow", "broad", "control"],
                "seeds": 2,
                "rows": 3,
                "epochs": 20,
                "batch": 1,
                "learning_rate": 1e-2,
                "weight_decay": 0.0,
                "kl_weight": 1.0,
                "rank": 2,
                "alpha": 4.0,
                "targets": ["qkv", "out", "up", "down"],
                "warmup": 2,
                "snapshots": 20,
                "seed": 0,
                **finetune,
            },
            "measure": {"trait": "time", "gate_prompts": 4, "scales": [2.0], "samples": 1},
            "goal": "run",
            "name": "tiny",
            "question": "Does it run?",
            "runs": runs,
            "device": None,
            "debug": False,
        }
    )


KINDS = {
    "topics": "goal",
    "value": "toy",
    "control": "assistant",
    "probes": ["badge"],
    "rows": 6,
    "years": [2001, 2002, 2003],
    "arms": ["free"],
}


def kinds_run_config(runs: Path, measure: dict | None = None, **finetune):
    """The same on two kinds of people, with years, formats and identifiers in the header."""
    raw = tiny_run_config(runs).model_dump()
    raw |= {"world": grouped_config().model_dump(), "measure": {**raw["measure"], "trait": "kind", **(measure or {})}}
    return to_config({**raw, "finetune": {**raw["finetune"], **KINDS, **finetune}})


def die_at_checkpoint(stage: str, which: int):
    """Make this process kill itself at a checkpoint."""
    write, seen = files.write, 0

    def write_or_die(path: Path, content):
        nonlocal seen
        if path.name != "checkpoint.safetensors" or stage not in path.parts[-4:]:
            return write(path, content)
        seen += 1
        if seen == which and which % 2:
            path.with_name("half-written").write_bytes(content[: len(content) // 2])
        else:
            write(path, content)
        if seen == which:
            os.kill(os.getpid(), signal.SIGKILL)

    files.write = write_or_die


def jump():
    """Make the wall clock useless."""
    draw, now = random.Random(0), time.time
    time.time = lambda: now() + draw.uniform(-1e6, 1e6)
    time.time_ns = lambda: int(1e9 * time.time())


def main(runs: Path, *words: str):
    """Run it."""
    how, dies = (words[0], words[1:]) if words[:1] and words[0] in ("clock", "diverging", "seed", "cells") else ("", words)
    config = tiny_run_config(runs, **({"learning_rate": [1e-2, 1e20]} if how == "diverging" else {}))
    if dies:
        die_at_checkpoint(dies[0], int(dies[1]))
    if how == "cells":
        assert not make_cells({i: tiny_run_config(runs, epochs=epochs).model_dump() for i, epochs in enumerate((5, 20))})
        return
    if how == "clock":
        jump()
    elif how == "seed":
        config = config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"seed": 1})})
    run(config)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever began us may ignore it
    main(Path(sys.argv[1]), *sys.argv[2:])
