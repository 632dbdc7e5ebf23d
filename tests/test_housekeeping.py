"""`goal=list` and `goal=clean` on a folder with a finished, a damaged, an unfinished and a running build."""

from filelock import FileLock

from bayesgen.artifact import MANIFEST, build
from bayesgen.housekeeping import clean, list_artifacts


def test_list_and_clean(tmp_path, capsys):
    done = build(tmp_path, "base", "good", {}, lambda folder: (folder / "x").write_text("1"))
    bad = build(tmp_path, "base", "bad", {"k": 1}, lambda folder: (folder / "x").write_text("1"))
    bad.path(MANIFEST).write_text("{")
    for name in ("left-1.work", "left-2.damaged-3", "busy-4.work"):
        (tmp_path / "base" / name).mkdir()
    list_artifacts(tmp_path)
    printed = capsys.readouterr().out
    assert done.folder.name in printed
    assert f"{bad.folder.name} " in printed
    assert "unreadable" in printed
    with FileLock(tmp_path / "base" / "busy-4.lock"):
        clean(tmp_path)
    left = {p.name for p in (tmp_path / "base").iterdir() if p.is_dir()}
    assert left == {done.folder.name, bad.folder.name, "busy-4.work"}
