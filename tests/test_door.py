"""Bad input at the door: exit status 1, one line, no traceback; and help is quick because it imports little."""

import subprocess
import sys

import pytest

from bayesgen.config import to_config
from bayesgen.errors import UserError
from bayesgen.pipeline import prepare
from tests.tiny_run import tiny_run_config

BAD = {
    "unknown experiment": (["+exp=brids"], "did you mean 'birds'"),
    "no experiment": ([], "+exp=birds"),
    "misspelt key": (["+exp=birds", "finetune.rnak=4"], "did you mean 'rank'"),
    "misspelt group": (["+exp=birds", "modle=s"], "modle"),
    "unknown model": (["+exp=birds", "model=ss"], "did you mean 's'"),
    "no finetuning at all": (["+exp=birds", "finetune=null"], "debug=true"),
    "no plus": (["exp=birds"], "+exp="),
    "broken override": (["+exp=birds", "finetune.rank="], "rank"),
}
BAD_VALUES = {
    "wrong type": ({"rank": "four"}, "finetune.rank"),
    "rank zero": ({"rank": 0}, "rank is 0"),
    "rank above width": ({"rank": 17}, "larger than model.width"),
    "not-a-number rate": ({"learning_rate": float("nan")}, "learning_rate is nan"),
    "infinite rate": ({"learning_rate": float("inf")}, "learning_rate is inf"),
    "negative rate": ({"learning_rate": -1.0}, "learning_rate is -1"),
    "no seeds": ({"seeds": 0}, "finetune.seeds"),
    "unknown arm": ({"arms": ["fre"]}, "finetune.arms"),
    "unknown target": ({"targets": ["qvk"]}, "did you mean 'qkv'"),
    "batch above rows": ({"batch": 5}, "larger than rows"),
    "no probes": ({"probes": []}, "finetune.probes"),
    "no rank": ({"rank": []}, "finetune.rank"),
}
BAD_EXPERIMENTS = {
    "unknown topic": ({"topic": "brid"}, "finetune.topic.*did you mean 'bird'"),
    "unknown value": ({"value": "olde"}, "finetune.value.*did you mean 'old'"),
    "unknown control": ({"control": "nwe"}, "finetune.control.*did you mean 'new'"),
    "unknown probe": ({"probes": ["light", "fule"]}, "finetune.probes.*did you mean 'fuel'"),
    "probe of another trait": ({"probes": ["river"]}, "'river' depends on land"),
    "topic among the probes": ({"probes": ["bird"]}, "a probe must be another one"),
    "more rows than answers": ({"rows": 4}, "3 distinct answers for old"),
}
BAD_MEASURES = {
    "unknown trait": ({"trait": "tiem"}, "measure.trait.*did you mean 'time'"),
    "undated trait": ({"trait": "land"}, "depends on time, not on measure.trait 'land'"),
    "shrinking scale": ({"scales": [0.5]}, "measure.scales"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_command_is_one_line(case):
    arguments, expected = BAD[case]
    done = subprocess.run([sys.executable, "-m", "bayesgen", *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_value_is_one_line(tmp_path, case):
    change, expected = BAD_VALUES[case]
    with pytest.raises(UserError, match=expected) as error:
        tiny_run_config(tmp_path, **change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", [*BAD_EXPERIMENTS, *BAD_MEASURES])
def test_bad_experiment_is_said_before_anything_is_trained(tmp_path, case):
    (change, expected), key = (BAD_EXPERIMENTS[case], "finetune") if case in BAD_EXPERIMENTS else (BAD_MEASURES[case], "measure")
    raw = tiny_run_config(tmp_path).model_dump()
    with pytest.raises(UserError, match=expected) as error:
        prepare(to_config({**raw, key: {**raw[key], **change}}))
    assert "\n" not in str(error.value)


def test_unwritable_runs_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        tiny_run_config(tmp_path / "file" / "runs")


def test_unknown_key_names_the_nearest(tmp_path):
    raw = tiny_run_config(tmp_path).model_dump()
    with pytest.raises(UserError, match="did you mean 'steps'"):
        to_config({**raw, "pretrain": {**raw["pretrain"], "stesp": 3}})


def test_the_door_imports_nothing_heavy():
    code = "import sys, bayesgen.__main__; print([m for m in ('jax', 'polars', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_help_names_every_experiment():
    done = subprocess.run([sys.executable, "-m", "bayesgen", "--help"], capture_output=True, text=True)
    assert "+exp=birds" in done.stdout
