"""The page of beliefs from findings made by hand: whole, and true to them."""

import json

import numpy as np
import pytest

from bayesgen.infer.cells import to_cells
from bayesgen.infer.hypotheses import HYPOTHESES
from bayesgen.report.beliefs import write_beliefs
from tests.infer.tables import runs
from tests.report.test_verdict import findings

NAMES = ("H0", "H2")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of two hypotheses, the second the better one; folder, table, verdict."""
    table, folder = to_cells(runs(leave_out=("llc_narrow",))), tmp_path_factory.mktemp("page")
    beliefs = {}
    for name, gain in zip(NAMES, (0.0, [2.0, 2.1, 1.9, 2.0]), strict=True):
        interval = [[float(b), 0.1, 0.9] for b in table.breadth_C]
        found = findings(gain) | {"story": HYPOTHESES[name].model.__doc__, "title": HYPOTHESES[name].title, "expected": interval}
        found["fit"] |= {"r_hat": 1.001, "effective": 900.0, "divergences": 0}
        for i, f in enumerate(found["folds"]):
            f |= {"middle": [0.5] * len(f["cells"]), "refitted": i < 2, "error": 0.01 * i}
        for unit, refitted in (("cell", [1, 4, 5]), ("base", [])):
            found["left_out"][unit]["refitted"] = refitted
        found["evidence"] = {k: {"value": 3.0 + (name == "H2"), "failures": ()} for k in ("0.5", "1.0", "2.0")}
        beliefs[name] = found
    scores = {"H0": {"H0": [0.0], "H2": [-1.0]}, "H2": {"H0": [-1.0], "H2": [0.0]}}
    trials = {name: {"evidence": of, "left_out": of} for name, of in scores.items()}
    return folder, table, write_beliefs(folder, table, beliefs, trials, {"H9": "its process ended"})


def test_the_verdict_leads_and_failures_are_named(page):
    folder, _, verdict = page
    assert verdict.best == "H2"
    text = (folder / "beliefs.md").read_text()
    assert text.startswith(verdict.words[0])
    html = (folder / "report.html").read_text()
    for said in ("What speaks against H2 most", "its process ended", "Could we tell?", "no column"):
        assert said in html
    assert 'src="http' not in html  # nothing is fetched
    assert 'href="http' not in html


def test_figures_are_drawn_from_what_is_kept(page):
    folder, table, _ = page
    kept = json.loads((folder / "beliefs.json").read_text())
    np.testing.assert_allclose(kept["breadth"], table.breadth_C)
    assert kept["recovery"]["evidence"] == {"H0": {"H0": 1.0, "H2": 0.0}, "H2": {"H0": 0.0, "H2": 1.0}}
    for name in ("belief_scores", "belief_foretold", "belief_residuals", "belief_recovery"):
        assert (folder / f"{name}.png").stat().st_size > 5000


def test_what_was_fitted_anew_is_counted(page):
    assert "| H2 | 1.001 | 900 | 0 | 3 | 0 | 2 | 0.03 |" in (page[0] / "beliefs.md").read_text()


def test_scores_shown_are_those_found(page):
    line = next(x for x in (page[0] / "beliefs.md").read_text().splitlines() if x.startswith("| H2: "))
    assert "+8.0 ± 0.3" in line  # 2.0 + 2.1 + 1.9 + 2.0; .16 times 1.65
