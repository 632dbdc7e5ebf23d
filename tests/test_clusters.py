"""What is handed to Slurm, and what comes back: by commands that stand in for its own and run the jobs here. Needs the extra `slurm`."""

import os
import re
import stat
import subprocess
import sys

import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

SBATCH = """#!/bin/sh
cp "$1" "$KEPT"
export SLURM_ARRAY_JOB_ID=7 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=here
( sleep 3  # until what is to be done lies where it is looked for
  for task in 0 1; do SLURM_JOB_ID=$((8 + task)) SLURM_ARRAY_TASK_ID=$task sh "$KEPT"; done
  touch "$KEPT.done" ) >"$KEPT.log" 2>&1 &
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do case "$1" in --output|--error) shift 2 ;; *) shift ;; esac; done
exec "$@"
"""
SACCT = """#!/bin/sh
state=RUNNING; [ -e "$KEPT.done" ] && state=COMPLETED
printf "JobID|State|NodeList\\n7_0|$state|here\\n7_1|$state|here\\n"
"""


def test_jobs_go_to_slurm_and_their_failures_come_back(tmp_path):
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT), ("scontrol", "#!/bin/sh\necho here\n")):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "bayesgen", "-m", "hydra/launcher=slurm", "goal=list,lst", f"runs={runs}"]
    command += ["hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "KEPT": str(tmp_path / "submission.sh")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == f"bayesgen: goal=lst,runs={runs}: goal=lst: there is no such goal; did you mean 'list'?"
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", (tmp_path / "submission.sh").read_text()))
    expected = {"array": "0-1%2", "cpus-per-task": "4", "gpus-per-node": "1", "mem": "16GB", "partition": "gpu", "time": "240"}
    assert {key: asked.get(key) for key in expected} == expected
    assert "signal" in asked  # of preemption, in time to be queued again; checkpoints are written as training goes
