"""The page of beliefs: the verdict in plain words, and all that it rests on. Made from findings (JSON) and the table of runs alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayesgen import files
from bayesgen.infer.cells import COLUMNS, Table, collinearity
from bayesgen.infer.compare import K_HAT
from bayesgen.infer.hypotheses import HYPOTHESES
from bayesgen.infer.recover import confusion, of_tables
from bayesgen.report.html import drawn, template
from bayesgen.report.tables import Section, as_markdown
from bayesgen.report.verdict import LARGE, NULL, Verdict, apart, judge, scores, separating

CLOSE = 0.7  # correlations from here on are shown
LITTLE = 0.05  # breadth
CAPTIONS = {
    "belief_scores": "Log score on what was left out, beside the best null, with two standard errors; hollow where a diagnostic fails.",
    "belief_foretold": "What the best hypothesis said of cells that it had not seen.",
    "belief_phase": "Dots: breadth measured, like cells side by side. Behind them what the best hypothesis expects; the line where it "
    "reaches half, dotted at the ends of its 90% interval.",
    "belief_residuals": "What it leaves unexplained. A base is what finetunings share; bases differ by more than seeds.",
    "belief_recovery": "Tables that each hypothesis makes on this design, at the spread found here, and what they are taken for.",
}


def write_beliefs(folder: Path, table: Table, beliefs: Mapping[str, Any], trials: Mapping[str, Any], failed: Mapping[str, str]) -> Verdict:
    """Write `report.html`, `beliefs.md`, the figures, and what they are drawn from (`beliefs.json`)."""
    from plots.__main__ import BELIEFS

    names = table.names
    verdict = judge(beliefs, trials, table.breadth_C.tolist(), names, table.networks)
    files.write_json(folder / "beliefs.json", figure_data(table, beliefs, trials, verdict))
    figures = drawn(BELIEFS, folder)
    of = sections(table, beliefs, trials, verdict, failed)
    html = template("beliefs.html.jinja").render(
        verdict=verdict, table=table, sections=of, figures=figures, captions=CAPTIONS, beliefs=beliefs
    )
    files.write(folder / "report.html", html)
    files.write(
        folder / "beliefs.md", as_markdown(verdict.words, of, ("Against it", verdict.against), ("What would change it", verdict.changes))
    )
    return verdict


def figure_data(table: Table, beliefs: Mapping[str, Any], trials: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """All that figures are drawn from."""
    cells = table.cells
    columns = {k: np.asarray(v, float).tolist() for k, v in cells.columns.items()}
    if {"frequency_broad", "frequency_narrow"} <= set(columns):
        odds = np.log(columns["frequency_broad"]) - np.log(np.array(columns["frequency_narrow"]) + 1e-3)
        columns["log_odds"] = odds.round(6).tolist()
    for k in ("rank", "norm_bound"):
        if k in table.levels:
            columns[k] = [float(x) for x in table.levels[k]]
    base_C = np.asarray(cells.base_C)
    score = scores(beliefs)
    standings = [{**s._asdict(), "ahead": score.beside(s.name, verdict.null)} for s in verdict.standings]
    recovery = {title: confusion(of_tables(trials, score)) for title, score in (("evidence", "evidence"), ("bases left out", "left_out"))}
    return {
        "verdict": {
            "unit": verdict.unit,
            "left_out": verdict.left_out,
            "best": verdict.best or verdict.null,
            "null": verdict.null,
            "standings": standings,
        },
        "found": {k: {part: f[part] for part in ("folds", "expected")} for k, f in beliefs.items()},
        "recovery": recovery,
        "breadth": table.breadth_C.tolist(),
        "half": float(np.mean([np.asarray(cells.floor_C).mean(), np.asarray(cells.ceiling_C).mean()])),
        "columns": columns,
        "settings": {k: v for k, v in table.levels.items() if not k.startswith("frequency")},
        "experiment": [table.experiments[int(e)] for e in np.asarray(cells.experiment_B)[base_C]],
        "base": [table.bases[int(b)] for b in base_C],
    }


def sections(
    table: Table, beliefs: Mapping[str, Any], trials: Mapping[str, Any], verdict: Verdict, failed: Mapping[str, str]
) -> list[Section]:
    """Tables, in the order in which doubts arise."""
    out: list[Section] = []
    score = scores(beliefs)
    nulls = list(dict.fromkeys((NULL, verdict.null)))
    head = ["hypothesis", *(f"{score.unit}s left out, score − {null}" for null in nulls), "in stacking", "what fails"]
    beside = lambda name: ["{:+.1f} ± {:.1f}".format(*score.beside(name, null)) for null in nulls]  # noqa: E731
    rows = [[f"{s.name}: {s.title}", *beside(s.name), f"{s.weight:.2f}", "; ".join(s.failures) or "–"] for s in verdict.standings]
    no = [""] * len(nulls)
    rows += [[name, "not fitted", *no, why] for name, why in table.fitted().items() if why]
    rows += [[name, "FAILED", *no, why] for name, why in failed.items()]
    out.append(
        (
            "Standings",
            f"Nats, with a standard error, the wider the fewer there are (Student's t); more than {LARGE:g} above 0 beats that null.",
            [head, *rows],
        )
    )
    out.append(
        (
            "Levels left out",
            "Score less that of H0, summed over the levels of what was varied, with a standard error over them.",
            _by_varied(beliefs),
        )
    )
    head = ["hypothesis", "log evidence − H0", "priors half as wide", "twice as wide", "what fails"]
    rows = []
    for name, f in beliefs.items():
        by = [f["evidence"][k]["value"] - beliefs[NULL]["evidence"][k]["value"] for k in ("1.0", "0.5", "2.0")]
        rows.append([name, *(f"{x:+.1f}" for x in by), "; ".join(f["evidence"]["1.0"]["failures"]) or "–"])
    out.append(
        (
            "Bayes factors",
            "Log Bayes factors against H0 (nats), by bridge sampling, and what becomes of them under other priors.",
            [head, *rows],
        )
    )
    head = [
        "hypothesis",
        "R-hat",
        "effective draws",
        "divergences",
        "cells fitted without",
        "bases",
        "levels",
        "greatest error of a level's score",
    ]
    rows = []
    for name, f in beliefs.items():
        again = [len(f["left_out"][unit]["refitted"]) if unit in f["left_out"] else 0 for unit in ("cell", "base")]
        again.append(sum(x["refitted"] for x in f["folds"]))
        gates, error = f["fit"], max((x["error"] for x in f["folds"]), default=0.0)
        rows.append(
            [name, f"{gates['r_hat']:.3f}", f"{gates['effective']:.0f}", str(gates["divergences"]), *map(str, again), f"{error:.2f}"]
        )
    said = "What is left out is foretold by weighing the draws of one fit, and by a fit of its own where weights are not to be relied on "
    said += f"(Pareto's k above {K_HAT:g}): so many cells, bases and levels. The error is Monte-Carlo's, in nats."
    out.append(("Fits", said, [head, *rows]))
    for name in dict.fromkeys((verdict.best or verdict.null, *verdict.rivals)):
        rows = [[k, f"{m:.3g}", f"[{low:.3g}, {high:.3g}]"] for k, (m, low, high) in beliefs[name]["parameters"].items()]
        out.append((f"{name}: parameters", "Posterior mean and 90% interval.", [["parameter", "mean", "interval"], *rows]))
    if trials:
        head = ["hypothesis", "its tables recognised", "taken for", "calibration: p", "90% intervals hold", "fits that failed a gate"]
        rows = []
        for name, t in trials.items():
            c = t.get("calibration")
            taken = ", ".join(f"{b} {x:.0%}" for a, b, x in verdict.confused if a == name) or "–"
            known = f"{verdict.recovered[name]:.0%}" if name in verdict.recovered else "–"
            last = [f"{c['p_value']:.2f}", ", ".join(f"{k} {x:.0%}" for k, x in c["covered"].items()), str(c["failed"])] if c else ["–"] * 3
            rows.append([name, known, taken, *last])
        out.append(("Could we tell?", "On tables that each hypothesis made on this design.", [head, *rows]))
    pairs = {frozenset((a, b)): (a, b, share) for a, b, share in reversed(verdict.confused)}  # the worse way round of each
    for a, b, share in sorted(pairs.values(), key=lambda p: -p[2]):
        cells = separating(beliefs, a, b, table.names)
        rows = [[name, f"{x:.2f}", f"{y:.2f}"] for name, x, y in cells]
        own = sorted(set(HYPOTHESES[a].reads) ^ set(HYPOTHESES[b].reads))
        said = f"Tables of {a} are taken for {b}'s in {share:.0%}. What one of them alone goes by: {', '.join(own) or 'nothing'}. "
        most = max(abs(x - y) for _, x, y in cells)
        said += "The cells on which their fits differ most" + (", all of them by little: vary that more." if most < LITTLE else ".")
        out.append((f"What would tell {a} from {b}", said, [["cell", a, b], *rows]))
    close = [[a, b, f"{r:.2f}"] for a, b, r in collinearity(table) if abs(r) >= CLOSE]
    if close:
        out.append(
            (
                "Collinearity",
                "Columns that go together over the cells: what the one explains, the other does.",
                [["", "", "correlation"], *close],
            )
        )
    rows = [[k, *COLUMNS[k], _range(np.asarray(v, float))] for k, v in table.cells.columns.items()]
    out.append(("What was gone by", "Columns of the table of runs.", [["column", "unit", "what it is", "range"], *rows]))
    return out


def _by_varied(beliefs: Mapping[str, Any]) -> list[list[str]]:
    varied = list(dict.fromkeys(f["varied"] for f in beliefs[NULL]["folds"]))
    rows, null = [["hypothesis", *(v.replace("_", " ") for v in varied)]], beliefs[NULL]["folds"]
    for name, found in beliefs.items():
        line = [name]
        for v in varied:
            those = [(f, g) for f, g in zip(found["folds"], null, strict=True) if f["varied"] == v]
            score, of_null = (np.array([f["score"] for f in fs]) for fs in zip(*those, strict=True))
            cells, family = np.array([len(f["cells"]) for f, _ in those]), np.array([f["family"] for f, _ in those])
            better, error = apart(score, of_null, cells, family)
            line.append(f"{better:+.1f} ± {error:.1f}" if len(those) > 1 else f"{better:+.1f}")
        rows.append(line)
    return rows


def _range(x: np.ndarray) -> str:
    return f"{x.min():.3g}" if np.ptp(x) == 0 else f"{x.min():.3g} to {x.max():.3g}"
