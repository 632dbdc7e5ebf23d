"""Eight devices, which XLA makes of this processor, or two hosts with four each: members are spread over them, and learn what they
learn on one.
"""

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from bayesgen.errors import UserError
from bayesgen.hosts import join

TRAIN = """
import sys
from pathlib import Path
import jax
from bayesgen.pipeline import build_corpus
from bayesgen.setup import prepare
from bayesgen.training import build_base, build_ensemble
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


COUNT = """
import jax, jax.numpy as jnp
from bayesgen.learn import devices
from bayesgen.learn.data import member_data
from bayesgen.learn.finetune import finetuning, member_settings
from bayesgen.learn.plan import plan_members
from bayesgen.learn.pretrain import pretraining
from bayesgen.learn.tries import every_step
from bayesgen.setup import prepare
from tests.tiny_run import tiny_run_config
from pathlib import Path

for arm in ("free", "narrow", "broad"):
    setup = prepare(tiny_run_config(Path("unused"), epochs=2, seeds=8, arms=[arm]))
    f = setup.config.finetune
    members = plan_members(f)
    data = jax.tree.map(jnp.asarray, every_step(member_data(setup.world, setup.grammar, f, members)))
    data = devices.shared(data)._replace(narrow=devices.dealt(data.narrow))
    begin_base, _, of = pretraining(setup.model, setup.source, setup.config.pretrain)
    params, settings = devices.shared(jax.jit(begin_base)(*of).params), devices.dealt(member_settings(f, members))
    begin, advance = finetuning(setup.model, f, members)
    state = devices.dealt(begin(params, settings))
    compiled = jax.jit(advance).lower(state, 0, params, settings, data).compile()
    print(arm, compiled.cost_analysis()["flops"])
"""


def test_every_arm_is_shared_out_over_the_devices():
    """FLOPs of a device among eight, by the compiler's count, against those of one that has all eight members."""
    found = {}
    for count in (1, 8):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        command = [sys.executable, "-c", COUNT]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": flags})
        assert done.returncode == 0, done.stderr
        found[count] = {arm: float(flops) for arm, flops in map(str.split, done.stdout.splitlines())}
    for arm, flops in found[8].items():
        assert flops < 1.6 * found[1][arm] / 8, arm


HOST = """
import sys
from pathlib import Path
from bayesgen.pipeline import build_corpus, build_gate
from bayesgen.setup import prepare, use_device
from bayesgen.training import build_base, build_ensemble
from tests.tiny_run import tiny_run_config

config = tiny_run_config(Path(sys.argv[1]), epochs=2, snapshots=1, seeds=3)
config = config.model_copy(update={"hosts": sys.argv[2], "pretrain": config.pretrain.model_copy(update={"steps": 4})})
print(use_device(config))
setup = prepare(config)
corpus = build_corpus(setup)
base = build_base(setup, corpus)
build_gate(setup, base)
found = build_ensemble(setup, base)
print("fresh" if found.fresh else "found")
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_hosts_train_together_and_the_first_does_the_rest(trained, tmp_path):
    for stage in ("corpus", "base"):
        shutil.copytree(trained[1][0] / stage, tmp_path / stage)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command, port = [sys.executable, "-c", HOST, str(tmp_path)], free_port()
    several = [
        subprocess.Popen(
            [*command, f"127.0.0.1:{port}/2/{i}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XLA_FLAGS": flags},
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in several]
    assert [process.returncode for process in several] == [0, 0], said
    assert all("8 used on 2 hosts" in text for text in said)
    assert [text.split()[-1] for text in said] == ["fresh", "found"]
    for file in ("ensemble/*/adapters-*.safetensors", "ensemble/*/losses.safetensors"):
        ours, theirs = (load_file(next(runs.glob(file))) for runs in (tmp_path, trained[1][0]))
        for key in theirs:
            np.testing.assert_allclose(ours[key], theirs[key], atol=2e-5)
    assert not list(tmp_path.glob("*/*.work"))


@pytest.mark.parametrize("hosts", ["10.0.0.1", "10.0.0.1:1234/4/4", "everywhere"])
def test_hosts_that_are_none_are_one_line(hosts):
    with pytest.raises(UserError, match="expected auto, or ADDRESS:PORT/COUNT/OWN"):
        join(hosts)
