"""From an experiment and a table to a prediction: what is asked, what is taken out, what is frozen; and through the door."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bayesgen import files, foresight, pipeline, training
from bayesgen.artifact import build, build_together, only_named
from bayesgen.beliefs import BELIEF, RUNS
from bayesgen.errors import UserError
from bayesgen.foresight import ASKED, DRAWS, PREDICTION, SAID, _only, _trained, words
from bayesgen.infer import foresight as pure
from bayesgen.infer.foresight import intervals
from bayesgen.infer.gather import BROAD, FREE, LEARNED, NARROW
from bayesgen.infer.settings import InferConfig
from bayesgen.report.contrasts import Contrast
from bayesgen.setup import prepare
from tests.infer.tables import kept, of_draws, runs
from tests.infer.test_foresight import CAME, KNOWN, QUANTILES, lines, opinion
from tests.infer.test_gather import setting
from tests.report.test_verdict import findings
from tests.tiny_run import tiny_run_config


def tiny(folder, **finetune):
    return tiny_run_config(folder, **finetune)


@pytest.mark.parametrize("arms", [(NARROW, BROAD), (FREE,)])
def test_settings_and_measures_of_other_arms_are_left_out(tmp_path, arms):
    """As if nobody had asked for them; all that these arms have stays."""
    given = {"batch": 2, "gate": "listed", "benign": [0.5], "kl_from": [0.1], "kl_until": [0.9], "rank": [2, 4], "rows": [3, 4]}
    whole = tiny(tmp_path, arms=["free", "narrow", "mixed", "token", "broad", "control"], **given)
    measure = whole.measure.model_copy(update={"samples": 3})
    whole = whole.model_copy(update={"contrasts": (Contrast.model_validate({"name": "x", "of": {"arm": "control"}}),), "measure": measure})
    only = _only(whole, *arms)
    of = only.finetune
    assert of.arms == arms
    assert (of.gate, of.benign) == (None, (0.5,))
    assert (of.kl_from, of.kl_until) == (((0.1,), (0.9,)) if NARROW in arms else ((0.0,), (1.0,)))
    assert (only.contrasts, only.measure.samples, only.measure.cost, only.measure.features) == ((), 0, None, None)
    other = {"arms", "gate", "benign", "kl_weight", "kl_from", "kl_until"}
    assert of.model_dump(exclude=other) == whole.finetune.model_dump(exclude=other)
    assert {s["rank"] for s in of.settings(arms[0])} == {2, 4}
    assert only.model_dump(exclude={"finetune", "measure", "contrasts"}) == whole.model_dump(exclude={"finetune", "measure", "contrasts"})


def test_penalties_of_the_narrow_arm_are_asked_about_and_are_no_matter_of_the_free_one(tmp_path):
    whole = tiny(tmp_path, kl_weight=[1.0, 2.0])
    assert {s["kl_weight"] for s in _only(whole, NARROW, BROAD).finetune.settings(NARROW)} == {1.0, 2.0}
    assert len(_only(whole, FREE).finetune.settings(FREE)) == 1


@pytest.fixture
def hollow(monkeypatch):
    """Artifacts by name, without what is in them: nothing is trained."""

    def empty(root, stage, wanted, make, everybody=False):
        return build_together(root, stage, wanted, lambda work, folders: None, everybody)

    monkeypatch.setattr("bayesgen.artifact.build_together", empty)


def train(config):
    setup = prepare(config)
    with only_named():
        corpus = pipeline.build_corpus(setup)
    return training.build_ensemble(setup, training.build_base(setup, corpus))


@pytest.mark.parametrize("how", ["alone", "among all arms"])
def test_who_could_have_known_better_is_seen(tmp_path, hollow, how):
    """Trainings on the data as they are, by themselves or as a run of the whole experiment leaves them; others are none."""
    config = tiny(tmp_path)
    train(_only(config, NARROW, BROAD))
    assert not _trained(config)
    train(_only(config, FREE) if how == "alone" else config)
    assert _trained(config)
    assert not _trained(tiny(tmp_path, rank=4))


# from process to process


def test_what_a_hypothesis_said_is_found_by_others(tmp_path, monkeypatch):
    draws = {"a": np.arange(5, dtype=np.float32), "o": np.ones((5, 4), np.float32)}
    said = opinion(0.0, 5, prior=[1.0, -2.0], likelihood=[0.25, 0.5])
    monkeypatch.setattr(foresight, "begin", lambda raw, runs: InferConfig(**raw))
    monkeypatch.setattr(pure, "say", lambda name, both, key: (of_draws(**draws)._replace(r_hat=1.5), said))
    raw = {"simulations": 0, "calibrations": 0, "seed": 0}
    known, asked = kept(tmp_path, "runs", RUNS, KNOWN), kept(tmp_path, "asked", ASKED, lines(CAME))
    made = foresight.say_one(raw, tmp_path, known, asked, "H9")
    found = foresight.load_said({"H9": made})["H9"]
    assert (found.mean_SxC == said.mean_SxC).all()
    assert (found.variance_SxC == said.variance_SxC).all()
    assert {k: v.tolist() for k, v in found.why.items()} == {"prior": [1.0, -2.0], "likelihood": [0.25, 0.5]}
    assert json.loads(made.path(SAID).read_text())["failures"] == ["R-hat 1.500, not below 1.01"]
    assert {k: v.tolist() for k, v in files.load_arrays(made.path(DRAWS)).items()} == {k: v.tolist() for k, v in draws.items()}


PAIR = {"H0": opinion(-1.0, 40), "H2": opinion(1.0, 10, seed=3, prior=[2.0, 1.0], likelihood=[-0.5, 0.5])}


@pytest.fixture
def predict(tmp_path, monkeypatch):
    """Freeze what H0 and H2 say, who each know half of what was left out: what is read of it."""
    beliefs = {"H0": findings(0), "H2": findings([4.0, 4.0, -4.0, -4.0])}
    failures = {"H0": [], "H2": ["1 divergent transitions"]}

    def made(stage, name, make):
        return build(tmp_path, stage, name, {}, make)

    def say(at: Path, name: str):
        files.save_arrays(at / "said.safetensors", {"mean": PAIR[name].mean_SxC, "variance": PAIR[name].variance_SxC})
        files.write_json(at / SAID, {"why": {k: x.tolist() for k, x in PAIR[name].why.items()}, "failures": failures[name]})

    def to_json(dropped=0, trained=False):
        monkeypatch.setattr(foresight, "_trained", lambda config: trained)
        known, asked = kept(tmp_path, "runs", RUNS, runs()), kept(tmp_path, "asked", ASKED, lines(CAME))
        weighed = {k: made("belief", k, partial(lambda at, b: files.write_json(at / BELIEF, b), b=b)) for k, b in beliefs.items()}
        said = {k: made("said", k, partial(say, name=k)) for k in PAIR}
        prediction = foresight.build_prediction(tiny(tmp_path), known, asked, weighed, said, dropped, tmp_path)
        return json.loads(prediction.path(PREDICTION).read_text())

    return to_json


def test_a_prediction_is_the_mixture_by_what_each_is_worth(predict):
    """Each of two that know half of it weighs a half."""
    frozen = predict()
    half = {"H0": 0.5, "H2": 0.5}
    assert {k: h["weight"] for k, h in frozen["hypotheses"].items()} == pytest.approx(half, abs=1e-3)
    for end in QUANTILES:
        assert frozen["mixture"][end] == pytest.approx(intervals(PAIR, half)[end], abs=1e-3)
        assert frozen["hypotheses"]["H2"][end] == pytest.approx(intervals({"H2": PAIR["H2"]}, {"H2": 1.0})[end])
    assert frozen["mixture"]["why"]["prior"] == pytest.approx([1.0, 0.5], abs=1e-3)
    assert frozen["mixture"]["shares"] == pytest.approx({"prior": 0.75, "likelihood": 0.25}, abs=1e-3)
    assert frozen["hypotheses"]["H2"]["failures"] == ["1 divergent transitions"]
    assert frozen["cells"] == ["b3 c0", "b3 c1"]
    assert frozen["table"] == {"cells": 8, "bases": 4, "experiments": ["x0", "x1"]}
    assert frozen["unit"] == "experiment"
    assert frozen["words"] == words(frozen)


def test_a_prediction_is_dated_and_stays_as_it_was(predict, monkeypatch):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2100, 1, 1, tzinfo=tz)

    first = predict()
    made = datetime.strptime(first["made"], "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - made).total_seconds()) < 3600
    monkeypatch.setattr(foresight, "datetime", Later)
    assert predict(trained=True) == first


@pytest.mark.parametrize(("dropped", "trained", "blind"), [(0, False, True), (3, False, False), (0, True, False)])
def test_a_prediction_is_blind_if_nobody_could_have_known_better(predict, dropped, trained, blind):
    assert predict(dropped, trained)["blind"] == blind


def frozen_of(cells, **changes):
    """A prediction by hand, of so many cells."""
    many = range(cells)
    mixture = {"middle": [0.1 + c / 20 for c in many], "low": [0.05] * cells, "high": [0.95] * cells}
    of = {"why": {"dose": [0.004] * cells, "likelihood": [-1.0] * cells, "prior": [3.0] * cells}}
    parts = {"shares": {"dose": 0.001, "likelihood": 0.25, "prior": 0.749}}
    return {"made": "TODAY", "blind": True, "cells": [f"c{c}" for c in many], "mixture": {**mixture, **of, **parts}} | changes


def test_words_are_dated_and_hold_breadths_and_reasons():
    """The largest first; what is next to nothing is not said."""
    found = words(frozen_of(2))
    assert found[0] == "TODAY, before training on these data."
    assert found[1:3] == ["c0: 0.10 broad [0.05, 0.95]", "c1: 0.15 broad [0.05, 0.95]"]
    assert found[3] == "why, beside the average cell: prior +3.00 nats (75%), likelihood -1.00 nats (25%)"
    assert words(frozen_of(2, blind=False))[0] == "TODAY. Trainings on these data were there already."


def test_words_of_many_settings_are_few():
    assert not any("more" in w for w in words(frozen_of(6)))
    assert words(frozen_of(9))[7] == "and 3 settings more"
    assert len(words(frozen_of(9))) == len(words(frozen_of(6))) + 1


def test_no_reason_is_said_to_be_none():
    quiet = frozen_of(1)
    quiet["mixture"] |= {"why": {"prior": [0.0]}, "shares": {"prior": 0.0}}
    assert words(quiet)[-1] == "why, beside the average cell: no reason to expect other"
    quiet["mixture"] |= {"why": {}, "shares": {}}
    assert words(quiet)[-1] == "why, beside the average cell: no reason to expect other"


def test_a_setting_without_a_solution_is_not_asked_about(capsys):
    """Both must have learned their task; of whom it is not known, it is not held against."""
    lines = pl.DataFrame({"rank": [1, 2, 3, 4], LEARNED[0]: [0.9, 0.4, 0.9, None], LEARNED[1]: [0.9, 0.9, -0.1, 0.8]})
    left = foresight.solved(lines, 0.5)
    assert left.columns == ["rank"]
    assert left["rank"].to_list() == [1, 4]
    assert "2 of 4 settings left out: their narrow or broad solution learned less than 0.5" in capsys.readouterr().out
    assert foresight.solved(lines[:1], 0.5)["rank"].to_list() == [1]
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="2 of 2 settings left out"):
        foresight.solved(lines[1:3], 0.5)


# through the door

BAD = {
    "of everyone": (["+exp=presidents"], "goal=predict: finetune.value is 'each'; breadth is told of one value"),
    "a grid": (["+exp=birds", "+sweep=prior"], "goal=predict takes one experiment"),
    "several values": (["-m", "+exp=birds", "finetune.rank=1,2"], "goal=predict with several values"),
    "no experiment": ([], "choose an experiment, such as +exp=birds"),
    "nothing to go by": (["+exp=birds"], "infer.table is null, and there is no sweep in"),
    "neither true nor false": (["+exp=birds", "infer.score=perhaps"], "infer.score"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path, case):
    """And nothing is trained for it."""
    words, expected = BAD[case]
    done = subprocess.run([sys.executable, "-m", "bayesgen", "goal=predict", f"runs={tmp_path}", *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("bayesgen: ")
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.glob("corpus/*"))


def test_a_table_too_small_to_predict_from_is_said_before_anything_is_fitted(tmp_path, monkeypatch):
    runs(bases=2).write_csv(tmp_path / "few.csv")
    settings = {k: v for k, v in setting().items() if k not in ("rows", "optimizer")}
    asked = lines(CAME).with_columns(pl.lit(v).alias(k) for k, v in settings.items())
    monkeypatch.setattr(foresight, "alone", lambda job: kept(tmp_path, "asked", ASKED, asked))
    infer = InferConfig(table=(tmp_path / "few.csv",), simulations=0, calibrations=0, seed=0)
    with pytest.raises(UserError, match="goal=predict: 4 cells to predict from, those asked about left out; expected 8 or more"):
        foresight.foresee(tiny(tmp_path).model_dump(), infer, tmp_path, 1)
    assert not list(tmp_path.glob("belief/*"))
