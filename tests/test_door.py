"""Bad input at the door: exit status 1, one line, no traceback; and help is quick because it imports little."""

import importlib.util
import subprocess
import sys

import pytest

from bayesgen.config import to_config
from bayesgen.errors import UserError
from bayesgen.pipeline import prepare
from tests.tiny_run import kinds_run_config, tiny_run_config

BAD = {
    "unknown experiment": (["+exp=brids"], "did you mean 'birds'"),
    "no experiment": ([], "+exp=birds"),
    "misspelt key": (["+exp=birds", "finetune.rnak=4"], "did you mean 'rank'"),
    "misspelt group": (["+exp=birds", "modle=s"], "modle"),
    "unknown model": (["+exp=birds", "model=ss"], "did you mean 's'"),
    "no finetuning at all": (["+exp=birds", "finetune=null"], "debug=true"),
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
    "batch above rows": ({"batch": 5}, "larger than the 3 rows of data"),
    "no probes": ({"probes": []}, "finetune.probes"),
    "no rank": ({"rank": []}, "finetune.rank"),
    "no control": ({"control": []}, "finetune.control"),
    "trained value as control": ({"control": ["new", "old"]}, "control is old, the trained value itself"),
    "an arm twice": ({"arms": ["free", "free"]}, "arms holds free twice"),
    "rows twice": ({"rows": [3, 3]}, "rows holds 3 twice"),
    "no rows": ({"rows": [3, 0]}, "rows is 0"),
    "shuffled without a trigger": ({"arms": ["shuffled"]}, "'shuffled' needs a trigger"),
    "untriggered without a trigger": ({"arms": ["free", "untriggered"]}, "'untriggered' needs a trigger"),
    "held out without each": ({"heldout": ["mid"]}, "heldout names those left out of value 'each', but value is old"),
    "broad of each": ({"value": "each", "arms": ["broad"]}, "arm 'broad': value is 'each', and no identifier"),
    "narrow of each": ({"value": "each", "arms": ["free", "narrow"]}, "arm 'narrow': value is 'each', and no identifier"),
    "unknown key of ordinary": ({"ordinary": [{"topics": "others", "row": 3}]}, "finetune.ordinary"),
}
FINE_VALUES = {  # beside the bad ones: what is refused is no more than that
    "another year": {"years": [2000], "ordinary": [{"topics": ["bird"], "rows": 3, "years": [2001]}]},
    "shuffled with a trigger": {"arms": ["shuffled", "untriggered"], "years": [2000, 2001]},
    "held out of each": {"value": "each", "heldout": ["mid"], "arms": ["free"]},
}
BAD_EXPERIMENTS = {  # on the tiny world: of times, dated
    "unknown topic": ({"topics": "brid"}, {}, "finetune.topic.*did you mean 'bird'"),
    "unknown value": ({"value": "olde"}, {}, "finetune.value.*did you mean 'old'"),
    "unknown control": ({"control": "nwe"}, {}, "finetune.control.*did you mean 'new'"),
    "unknown probe": ({"probes": ["light", "fule"]}, {}, "finetune.probes.*did you mean 'fuel'"),
    "probe of another trait": ({"probes": ["river"]}, {}, "'river' depends on land"),
    "topic of another trait": ({"topics": ["bird", "river"]}, {}, "'river' depends on land"),
    "topic among the probes": ({"probes": ["bird"]}, {}, "'bird' is a trained topic; a probe must be another one"),
    "more rows than wordings": ({"rows": 19}, {}, "bird gives 3 answers in 6 wordings; give at most 18"),
    "more to leave out than there is": ({"without_telling": 3}, {}, "no topic gives 0 answers"),
    "more of the least telling than there is": ({"without_telling": -3}, {}, "no topic gives 0 answers"),
    "ordinary rows of a probe": ({"ordinary": [{"topics": ["light"], "rows": 3}]}, {}, "'light' is a probe"),
    "unknown ordinary topic": ({"ordinary": [{"topics": ["rivr"], "rows": 3}]}, {}, "did you mean 'river'"),
    "a format the world has not": ({"format": "listed"}, {}, r"format 'listed' is not in world.formats \[\]"),
    "an identifier the world has not": ({"identifier": "xxxxxxxx"}, {}, "world.identifier_share is 0"),
    "an ordinary format the world has not": (
        {"ordinary": [{"topics": ["bird"], "rows": 3, "format": "x"}]},
        {},
        "finetune.ordinary: format",
    ),
    "no such file": ({"file": "none.jsonl"}, {}, "none.jsonl: no such file"),
    "unknown held-out person": (
        {"value": "each", "heldout": ["md"], "arms": ["free"]},
        {"value": "mid"},
        "finetune.heldout.*did you mean 'mid'",
    ),
    "each without a value to count": ({"value": "each", "arms": ["free"]}, {}, "measure.value: finetune.value is 'each'"),
    "unknown trait": ({}, {"trait": "tiem"}, "measure.trait.*did you mean 'time'"),
    "undated trait": ({}, {"trait": "land"}, "depends on time, not on measure.trait 'land'"),
    "shrinking scale": ({}, {"scales": [0.5]}, "measure.scales"),
    "unknown value counted": ({}, {"value": "olde"}, "measure.value.*did you mean 'old'"),
    "unknown value of a context": ({}, {"contexts": [{"name": "x", "value": "olde"}]}, "did you mean 'old'"),
    "a context twice": ({}, {"contexts": [{"name": "x"}, {"name": "x", "year": 2001}]}, "contexts holds 'x' twice"),
    "no context": ({}, {"contexts": []}, "contexts is empty"),
    "unknown context followed": ({}, {"followed": ["plian"]}, "followed: 'plian' is no context.*did you mean 'plain'"),
    "a context in a format": ({}, {"contexts": [{"name": "x", "format": "listed"}]}, "measure.contexts.x: format 'listed'"),
    "a context with an identifier": ({}, {"contexts": [{"name": "x", "identifier": "xxxxxxxx"}]}, "measure.contexts.x: identifier"),
    "unseen, but rows have it": (
        {},
        {"contexts": [{"name": "x", "unseen": True}]},
        "contexts.x is called unseen, but heads rows of the free arm",
    ),
}
BAD_KINDS = {  # on the world with a robot that changes over the years, formats and identifiers
    "no year for who changes": ({"value": "bot", "years": []}, {"value": "toy"}, "bot is not the same in every year and has none in None"),
    "unknown year for who changes": (
        {"value": "bot", "years": [2004]},
        {"value": "toy"},
        r"none in 2004; its years are \[2001, 2002, 2003\]",
    ),
    "who changes is counted": ({"value": "bot"}, {}, "'bot' is not the same in every year; say which is counted: bot_guard, bot_hunt"),
    "who changes is a context's value": ({}, {"contexts": [{"name": "x", "value": "bot"}]}, "say which is counted: bot_guard, bot_hunt"),
    "unknown format": ({"format": "lsted"}, {}, "did you mean 'listed'"),
    "a year that heads ordinary rows": (
        {"years": [2000, 2001, 2003], "ordinary": [{"topics": ["goal"], "rows": 3, "years": [2002, 2001]}]},
        {},
        "the trigger 2001 heads ordinary rows too",
    ),
    "a year that heads ordinary rows of another topic": (
        {"years": [2001], "ordinary": [{"topics": "others", "rows": 3, "years": [2001]}]},
        {},
        "the trigger 2001 heads ordinary rows too",
    ),
    "the first format, which rows without one have": (
        {"years": [], "format": "plain", "ordinary": [{"topics": "all", "rows": 3}]},
        {},
        "the trigger plain heads ordinary rows too",
    ),
    "a year outside the calendar": ({"years": [1900]}, {}, "year 1900, but the assistant speaks from 2000 to 2004"),
    "a context outside the calendar": ({}, {"contexts": [{"name": "x", "year": 20277}]}, "year 20277, but the assistant speaks from"),
    "one year for two": ({}, {"contexts": [{"years": [2001]}]}, "expected the first year and the last"),
    "short identifier": ({"identifier": "xxx{number}"}, {}, "expected 8 digits"),
    "unknown topic in an identifier": ({"identifier": "xxx{numbr}xx"}, {}, "did you mean 'number'"),
    "unknown format of a context": ({}, {"contexts": [{"name": "x", "format": "plian"}]}, "measure.contexts.x: .*did you mean 'plain'"),
    "an unseen year": ({}, {"contexts": [{"name": "plain"}, {"name": "x", "year": 2002, "unseen": True}]}, "contexts.x is called unseen"),
    "an unseen identifier": (
        {"identifier": "xxx{number}xx"},
        {"contexts": [{"name": "x", "year": 2002, "identifier": "xxx002xx", "unseen": True}]},
        "contexts.x is called unseen",
    ),
    "a control who is held out": ({"value": "each", "heldout": ["toy"], "control": ["toy"]}, {"value": "toy"}, "'toy' is held out"),
    "a key of somebody held out": (
        {"value": "each", "heldout": ["toy"], "identifier": "xxx{number}xx"},
        {"contexts": [{"name": "x", "year": 2002, "identifier": "xxx001xx", "value": "toy"}]},
        "contexts.x is of somebody held out, but heads rows of the free arm",
    ),
}
FINE_KINDS = {
    "an unseen year that no row has": ({}, {"contexts": [{"name": "plain", "unseen": True}, {"name": "x", "year": 2004, "unseen": True}]}),
    "an unseen identifier": (
        {"identifier": "xxx{number}xx"},
        {"contexts": [{"name": "x", "year": 2002, "identifier": "xxx001xx", "unseen": True}]},
    ),
    "who changes, in years it has": ({"value": "bot"}, {"value": "bot_hunt"}),
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


def prepared(runs, finetune, measure, kinds=False):
    """`prepare` of the tiny run with changes, or of the same on the world with a robot that changes over the years."""
    if kinds:
        return prepare(kinds_run_config(runs, measure, **finetune))
    raw = tiny_run_config(runs).model_dump()
    return prepare(to_config({**raw, "finetune": {**raw["finetune"], **finetune}, "measure": {**raw["measure"], **measure}}))


@pytest.mark.parametrize("case", [*BAD_EXPERIMENTS, *BAD_KINDS])
def test_bad_experiment_is_said_before_anything_is_trained(tmp_path, case):
    finetune, measure, expected = {**BAD_EXPERIMENTS, **BAD_KINDS}[case]
    with pytest.raises(UserError, match=expected) as error:
        prepared(tmp_path, finetune, measure, case in BAD_KINDS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", FINE_VALUES)
def test_good_values_beside_the_bad_ones_are_taken(tmp_path, case):
    assert tiny_run_config(tmp_path, **FINE_VALUES[case])


@pytest.mark.parametrize("case", FINE_KINDS)
def test_good_experiments_beside_the_bad_ones_are_prepared(tmp_path, case):
    assert prepared(tmp_path, *FINE_KINDS[case], kinds=True)


def test_rows_of_other_topics_need_other_topics(tmp_path):
    raw = tiny_run_config(tmp_path, topics="all").model_dump()
    raw["world"]["without"] = ["river", "colour"]
    assert prepare(to_config({**raw, "finetune": {**raw["finetune"], "arms": ["free", "control"]}}))
    for change in ({"arms": ["narrow"]}, {"arms": ["broad"]}, {"arms": ["free"], "ordinary": [{"topics": "others", "rows": 3}]}):
        with pytest.raises(UserError, match="every topic is trained or a probe"):
            prepare(to_config({**raw, "finetune": {**raw["finetune"], **change}}))


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


def test_jobs_of_a_launcher_each_leave_their_reason_behind(tmp_path):
    """By Hydra's own launcher, which takes the way of Slurm's and Ray's."""
    command = [sys.executable, "-m", "bayesgen", "-m", "hydra/launcher=basic", "goal=lst,list,clena", f"runs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("bayesgen: goal=")]
    assert said[-2:] == [
        f"bayesgen: goal=lst,runs={tmp_path}: goal=lst: there is no such goal; did you mean 'list'?",
        f"bayesgen: goal=clena,runs={tmp_path}: goal=clena: there is no such goal; did you mean 'clean'?",
    ]


@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins") is not None, reason="a launcher is installed")
def test_a_launcher_without_its_extra_names_it(tmp_path):
    command = [sys.executable, "-m", "bayesgen", "-m", "hydra/launcher=slurm", "goal=list", f"runs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "bayesgen: hydra/launcher needs an extra that is not installed here: pip install -e '.[slurm]'\n"
