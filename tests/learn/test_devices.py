"""Eight devices, which XLA makes of this processor: members are spread over them, and learn what they learn on one."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

TRAIN = """
import sys
from pathlib import Path
import jax
from bayesgen.pipeline import build_base, build_corpus, build_ensemble, prepare
from bayesgen.learn import loop
from bayesgen.setup import use_device
from tests.tiny_run import tiny_run_config

runs = Path(sys.argv[1])
config = tiny_run_config(runs, epochs=2, snapshots=1, seeds=3)  # twelve members: four stand in
print(use_device(config))
scan = loop._scan

def spied(advance, state, *rest):
    jax.debug.inspect_array_sharding(jax.tree.leaves(state)[0], callback=lambda s: print("over", len(s.device_set), s.is_fully_replicated))
    return scan(advance, state, *rest)

loop._scan = spied
setup = prepare(config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"steps": 4})}))
corpus = build_corpus(setup)
build_ensemble(setup, build_base(setup, corpus))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    found = {}
    for count in (1, 8):
        runs = tmp_path_factory.mktemp(f"on_{count}")
        for stage in ("corpus", "base") if found else ():
            shutil.copytree(found[1][0] / stage, runs / stage)  # one base: optimisers make much of a gradient's last bit near zero
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        command = [sys.executable, "-c", TRAIN, str(runs)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": flags})
        assert done.returncode == 0, done.stderr
        found[count] = runs, done.stdout
    return found


def test_members_lie_on_all_devices(trained):
    assert "8 used" in trained[8][1]
    assert "over 8 False" in trained[8][1]
    assert "over 8" not in trained[1][1]
    assert "ensemble: 12 members" in trained[8][1]


def test_they_learn_what_they_learn_on_one(trained):
    for file in ("ensemble/*/adapters-*.safetensors", "ensemble/*/losses.safetensors"):
        ours, theirs = (load_file(next(trained[count][0].glob(file))) for count in (8, 1))
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_allclose(ours[key], theirs[key], atol=2e-5)  # sums in another order
