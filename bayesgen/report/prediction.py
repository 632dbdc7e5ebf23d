"""The page of a prediction: what was said before, why, and how it turned out. From what was frozen and what was measured alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayesgen import files
from bayesgen.infer.compare import PROBABILITY
from bayesgen.infer.foresight import shares
from bayesgen.report.html import drawn, template
from bayesgen.report.tables import Section, as_markdown
from bayesgen.report.verdict import NULL

MIXTURE = "mixture"


def write_prediction(folder: Path, frozen: Mapping[str, Any], outcome: Mapping[str, Any] | None):
    """Write `report.html`, `prediction.md`, the figure, and what it is drawn from (`prediction.json`)."""
    from plots.__main__ import OF_PREDICTION

    files.write_json(folder / "prediction.json", {**frozen, "outcome": outcome})
    of, result = sections(frozen, outcome), turned_out(frozen, outcome) if outcome else []
    html = template("prediction.html.jinja").render(
        frozen=frozen, result=result, sections=of, figures=drawn([OF_PREDICTION], folder), probability=f"{PROBABILITY:.0%}"
    )
    files.write(folder / "report.html", html)
    date, *said = frozen["words"]
    files.write(folder / "prediction.md", as_markdown([date, *result], of, ("Foretold", said)))


def turned_out(frozen: Mapping[str, Any], outcome: Mapping[str, Any]) -> list[str]:
    """How the mixture of hypotheses did, in words."""
    m, null = outcome["mixture"], outcome["scores"][NULL]
    inside = round(m["covered"] * len(outcome["breadth"]))
    out = [f"Afterwards: {inside} of {len(outcome['breadth'])} settings lay within their {PROBABILITY:.0%} intervals."]
    if m["rank"] is not None:
        out.append(f"Rank correlation of foretold and measured breadth: {m['rank']:+.2f}.")
    out.append(f"Log score beside {NULL}, one breadth for all: {m['log_score'] - null['log_score']:+.1f} nats over all settings together.")
    return out


def sections(frozen: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> list[Section]:
    """Tables: the settings, the hypotheses, the reasons."""
    m = frozen["mixture"]
    head = ["setting", "narrow", "broad", f"foretold, {PROBABILITY:.0%} interval", *(["measured"] if outcome else [])]
    rows = []
    for c, name in enumerate(frozen["cells"]):
        line = [name, f"{frozen['floor'][c]:.2f}", f"{frozen['ceiling'][c]:.2f}", _interval(m, c)]
        rows.append([*line, *([f"{outcome['breadth'][c]:.2f}"] if outcome else [])])
    out: list[Section] = [("What was foretold", "Breadth by all hypotheses, mixed by their weights.", [head, *rows])]
    head = ["hypothesis", "weight", "foretold, mean over settings"]
    head += ["intervals held", "rank correlation", "log score − H0"] if outcome else []
    rows = []
    scored = {**outcome["scores"], MIXTURE: outcome["mixture"]} if outcome else {}
    for name, h in {**frozen["hypotheses"], MIXTURE: {**m, "weight": 1.0, "title": "all of them", "failures": []}}.items():
        failed = f" (FAILED: {', '.join(h['failures'])})" if h["failures"] else ""
        line = [f"{name}: {h['title']}{failed}", f"{h['weight']:.2f}", f"{np.mean(h['middle']):.2f}"]
        if outcome:
            s = scored[name]
            rank = "–" if s["rank"] is None else f"{s['rank']:+.2f}"
            line += [f"{s['covered']:.0%}", rank, f"{s['log_score'] - scored[NULL]['log_score']:+.1f}"]
        rows.append(line)
    said = f"Weights by stacking, of {frozen['unit']}s left out of the table in turn. {frozen['verdict']}"
    out.append(("Who said what", said, [head, *rows]))
    rows = []
    for name, h in {**frozen["hypotheses"], MIXTURE: m}.items():
        share = shares(h["why"])
        rows += [[name, part, f"{np.mean(x):+.2f}", f"{share[part]:.0%}"] for part, x in h["why"].items()]
    note = "Parts of the predicted log odds (nats), mean over settings, beside the average cell of the table; and their shares by size."
    out.append(("Why", note, [["hypothesis", "part", "nats", "share"], *rows]))
    return out


def _interval(of: Mapping[str, Any], c: int) -> str:
    return f"{of['middle'][c]:.2f} [{of['low'][c]:.2f}, {of['high'][c]:.2f}]"
