"""`python -m plots FIGURE RUN`: one figure of a finished run, as PNG and SVG beside where you stand.

FIGURE is a file of this folder; RUN is a page folder under runs/page/ (of goal=paper, for the overview; of goal=infer, for beliefs; of
goal=predict, for foreseen).
"""

import importlib
import json
import sys
from pathlib import Path

import polars as pl

from bayesgen.errors import UserError, nearest
from bayesgen.measure.rows import at_setting, converged

COST = "cost_"
OF_PAPER, OF_PREDICTION, OF_STUDY, OF_DETECTION = "overview", "foreseen", "study", "detection"
BELIEFS = sorted(p.stem for p in Path(__file__).parent.glob("belief_*.py"))
OTHERS = {  # drawn of no single run: of which page and its file, and the goal that makes it
    OF_PAPER: ("several experiments", "contrasts.json", "paper"),
    OF_PREDICTION: ("a prediction", "prediction.json", "predict"),
    OF_STUDY: ("a study", "study.json", "run"),
    OF_DETECTION: ("a study that detects", "detection.json", "run"),
    **dict.fromkeys(BELIEFS, ("beliefs", "beliefs.json", "infer")),
}
FIGURES = sorted(p.stem for p in Path(__file__).parent.glob("[!_]*.py") if p.stem not in ("style", *OTHERS))


def draw(name: str, run: Path):
    """The figure `name` of the page in folder `run` (None: it does not apply); of several settings, under the first."""
    if name in OTHERS:
        what, file, goal = OTHERS[name]
        if not (run / file).is_file():
            raise UserError(f"{run}: no page of {what} there (looked for {file}); goal={goal} makes one")
        return importlib.import_module(f"plots.{name}").main(json.loads((run / file).read_text()))
    if name not in FIGURES:
        raise UserError(f"no figure '{name}'{nearest(name, (*FIGURES, *OTHERS))}")
    if not (run / "figures.json").is_file():
        raise UserError(f"{run}: no finished page there (looked for figures.json); expected a folder under runs/page/")
    story = json.loads((run / "figures.json").read_text())
    if name.startswith(COST):  # of another table: what solutions cost
        costs = run / "cost.parquet"
        return importlib.import_module(f"plots.{name}").main(pl.read_parquet(costs), story) if costs.is_file() else None
    setting = {k: v for k, v in story["setting"].items() if (name, k) != ("by_rows", "rows")}
    table = converged(at_setting(pl.read_parquet(run / "rows.parquet"), setting))
    return importlib.import_module(f"plots.{name}").main(table, story)


def save(figure, stem: Path):
    """PNG and SVG, without dates in them: same table, same bytes."""
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    try:
        if len(sys.argv) != 3:
            raise UserError(f"usage: python -m plots FIGURE RUN; figures: {', '.join((*FIGURES, *OTHERS))}")
        figure = draw(sys.argv[1], Path(sys.argv[2]))
        if figure is None:
            raise UserError(
                f"{sys.argv[1]}: nothing to draw; this experiment has one header only, or one number of rows, or no costs (measure=cost)"
            )
        save(figure, Path(sys.argv[1]))
        print(f"{sys.argv[1]}.png {sys.argv[1]}.svg")
    except UserError as error:
        sys.exit(f"plots: {error}")
