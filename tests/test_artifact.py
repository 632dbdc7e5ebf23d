"""Built once, found again, repaired when damaged, built by one of two."""

import multiprocessing
import time

import numpy as np
import pytest

from bayesgen import artifact, files
from bayesgen.artifact import MANIFEST, build, only_named
from bayesgen.errors import UserError
from bayesgen.files import load_tree, save_tree


def _make(folder):
    (folder / "x.txt").write_text("hello")


def test_found_again_and_named_by_config_and_parents(tmp_path):
    with only_named():
        named = build(tmp_path, "a", "name", {"k": 1}, _make)
        assert not named.folder.exists()
    first = build(tmp_path, "a", "name", {"k": 1}, _make)
    assert (first.folder, first.fingerprint) == (named.folder, named.fingerprint)
    with only_named():
        assert not build(tmp_path, "a", "name", {"k": 1}, _make, first).folder.exists()
    again = build(tmp_path, "a", "name", {"k": 1}, _make)
    assert (first.fresh, again.fresh) == (True, False)
    assert first.folder == again.folder
    other = build(tmp_path, "a", "name", {"k": 2}, _make)
    assert other.folder != first.folder
    assert (
        build(tmp_path, "b", "name", {"k": 1}, _make, first).folder.name != build(tmp_path, "b", "name", {"k": 1}, _make, other).folder.name
    )


def test_other_code_is_said_and_a_cheap_stage_is_asked_anew(tmp_path, capsys, monkeypatch):
    build(tmp_path, "a", "name", {}, _make)
    assert "another state of the code" not in capsys.readouterr().out
    monkeypatch.setattr(artifact, "code", lambda *packages: "other")
    assert not build(tmp_path, "a", "name", {}, _make).fresh
    assert "another state of the code" in capsys.readouterr().out
    monkeypatch.undo()
    assert artifact.code("measure") == artifact.code("measure") != artifact.code("report")


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "manifest"])
def test_damage_is_noticed_said_and_mended(tmp_path, capsys, harm):
    first = build(tmp_path, "a", "name", {}, _make)
    if harm == "flip":
        first.path("x.txt").write_text("hellp")
    elif harm == "truncate":
        first.path("x.txt").write_text("hel")
    elif harm == "delete":
        first.path("x.txt").unlink()
    else:
        first.path(MANIFEST).write_text("{")
    again = build(tmp_path, "a", "name", {}, _make)
    assert again.fresh
    assert again.path("x.txt").read_text() == "hello"
    assert "building it again" in capsys.readouterr().out
    assert len(list((tmp_path / "a").glob("*.damaged-*"))) == 1


def _slowly(folder):
    (folder / "who").write_text(str(time.time_ns()))
    time.sleep(0.5)


def _built(root):
    return build(root, "a", "name", {}, _slowly).fresh


def test_of_two_at_once_one_builds(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        fresh = pool.map(_built, [tmp_path] * 2)
    assert sorted(fresh) == [False, True]


def test_work_of_an_interrupted_build_is_found(tmp_path):
    def fails(folder):
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, "a", "name", {}, fails)
    seen = []
    build(tmp_path, "a", "name", {}, lambda folder: seen.append((folder / "checkpoint").read_text()))
    assert seen == ["half"]


def test_trees_survive_a_round_trip_and_wrong_shapes_are_refused(tmp_path):
    tree = {"a": np.arange(3.0), "b": (np.zeros((2, 2), np.float32), np.array(7))}
    save_tree(tmp_path / "t.safetensors", tree)
    back = load_tree(tmp_path / "t.safetensors", tree)
    np.testing.assert_array_equal(back["a"], tree["a"])
    assert back["b"][1] == 7
    with pytest.raises(UserError, match="other shapes"):
        load_tree(tmp_path / "t.safetensors", {**tree, "a": np.arange(4.0)})
    (tmp_path / "t.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not readable"):
        files.load_tree(tmp_path / "t.safetensors", tree)
