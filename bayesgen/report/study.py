"""A study: many ways to train side by side, a line each, with the same things asked of all. Of one run with several settings, or of a grid.

cells (a run each, at some level of every axis of a grid) -> lines (cell x arm x setting) -> columns (means over seeds) -> contrasts
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen import files
from bayesgen.errors import UserError, nearest
from bayesgen.learn.plan import LISTED, Arm, FinetuneConfig
from bayesgen.measure.gate import BaseGate
from bayesgen.measure.intervals import Interval, over_seeds
from bayesgen.measure.rows import spell_setting
from bayesgen.report.contrasts import SCALE, SNAPSHOT, Column, Contrast, Found, Pick, by_seed, find
from bayesgen.report.detection import DETECTION, Detection, detection_data, detection_sections
from bayesgen.report.html import drawn, template
from bayesgen.report.summary import names_of, show
from bayesgen.report.tables import Section, as_markdown
from bayesgen.world.world import World

ARM, COLUMNS = "arm", "columns"
FIGURE = "study"
WEAK = "base fails its gate"


class Study(BaseModel):
    """Columns, a figure of some of them, and contrasts between lines, each with what was expected beforehand."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: tuple[Column, ...] = Field(min_length=1)
    arms: tuple[str, ...] = ()  # that have lines, `base` and exact ones too; none: all that are trained
    x: str  # of the figure: a column, a setting, an axis of the grid; or `columns`: those of y side by side, a curve a line
    y: tuple[str, ...] = Field(min_length=1)  # columns, a panel each
    by: str = ARM  # what curves are told apart by: a setting, an axis, or the arm
    log: bool = False  # x on a logarithmic scale
    contrasts: tuple[Contrast, ...] = ()
    everywhere: tuple[Contrast, ...] = ()  # asked in every cell of the grid: which of them survive?
    detection: Detection | None = None

    @model_validator(mode="after")
    def _names(self):
        names = [c.name for c in self.columns]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"columns holds '{name}' twice; a name stands for one")
        for name in self.y:
            if name not in names:
                raise ValueError(f"y: '{name}' is no column{nearest(name, names)}")
        for contrast in (*self.contrasts, *self.everywhere):
            if contrast.of is None:
                raise ValueError(f"{contrast.name}: a study's contrast needs `of`")
        return self

    def asked(self, f: FinetuneConfig) -> list[Contrast]:
        """What a cell must be able to answer: columns (of a free arm, say), scores of every arm, and those sides of contrasts whose arm is
        trained there, but for their levels: which there are is a matter of the grid.
        """
        columns = [Contrast(name=c.name, of=c.pick("free", {})) for c in self.columns]
        d = self.detection
        scores = (
            [Contrast(name=f"{s.name}, {arm}", of=s.pick(arm, {})) for arm in (*d.positive, *d.negative) for s in d.scores] if d else []
        )
        sides = [(c.name, side) for c in (*self.contrasts, *self.everywhere) for side in c.picks if _there(side.arm, f)]
        settings = lambda p: {k: v for k, v in p.where.items() if k in (*LISTED, SCALE, SNAPSHOT)}  # noqa: E731
        return [*columns, *scores, *(Contrast(name=n, of=p.model_copy(update={"where": settings(p)})) for n, p in sides)]


def _there(arm: str, f: FinetuneConfig) -> bool:
    """Whether an arm is trained here, or is none that is trained anywhere."""
    own = arm.removeprefix("ideal ")
    return own in f.arm_names or own.split()[0] not in get_args(Arm)


class Cell(NamedTuple):
    """A run: its level on every axis (none: a run by itself), its settings, its world, its rows, and what its base's gate says."""

    levels: Mapping[str, str]
    config: Any
    world: World
    rows: pl.DataFrame
    gate: BaseGate | None = None  # of a run by itself the page shows it

    @property
    def name(self) -> str:
        """For a reader."""
        weak = [WEAK] if self.gate and self.gate.failures else []
        return ", ".join([*(f"{k} {v}" for k, v in self.levels.items()), *weak]) or "this run"

    def read(self, pick: Pick) -> dict[int, float]:
        """A pick's value of each seed; none, if it was not measured here."""
        own = {k: v for k, v in pick.where.items() if k not in self.levels}
        try:
            return by_seed(self.rows, pick.model_copy(update={"where": own}), names_of(self.config, self.world))
        except UserError:
            return {}


class Line(NamedTuple):
    """An arm of a cell under a setting: what tells it from the others, and its value in every column (none: not measured)."""

    levels: Mapping[str, str]
    arm: str
    setting: Mapping[str, Any]
    values: Mapping[str, Interval | None]
    weak: bool = False  # its base fails its gate

    @property
    def name(self) -> str:
        """For a reader."""
        of = [*(f"{k} {v}" for k, v in self.levels.items()), self.arm, *spell_setting(self.setting)]
        return ", ".join([*of, *([WEAK] if self.weak else [])])


def check_study(study: Study, axes: Mapping[str, Sequence[str]]):
    """One line for an axis, a level or a setting that there is not; `axes` are the levels of the grid's."""
    for key, name in (("x", study.x), ("by", study.by)):
        valid = [*((COLUMNS, *(c.name for c in study.columns)) if key == "x" else (ARM,)), *LISTED, *axes]
        if name not in valid:
            raise UserError(f"study.{key}: '{name}' is no column, setting or axis{nearest(name, valid)}")
    for contrast in study.contrasts:
        for pick in contrast.picks:
            for k, v in pick.where.items():
                known_as(contrast.name, k, axes)
                if k in axes and str(v) not in axes[k]:
                    raise UserError(f"study.contrasts: {contrast.name}: {k} has no level '{v}'{nearest(str(v), axes[k])}")
            if axes and (absent := [a for a in axes if a not in pick.where]):
                raise UserError(f"study.contrasts: {contrast.name}: which {absent[0]}? name its level in `where`")


def known_as(contrast: str, key: str, axes: Mapping[str, Sequence[str]]):
    """One line for a key of `where` that is neither a setting nor an axis."""
    valid = (*LISTED, SCALE, SNAPSHOT, *axes)
    if key not in valid:
        raise UserError(f"study.contrasts: {contrast}: where: '{key}' is no setting or axis{nearest(key, valid)}")


def lines_of(study: Study, cells: Sequence[Cell]) -> list[Line]:
    """A line for every cell, arm and setting; settings that columns ask for are at their first value."""
    fixed = {k for c in study.columns for k in c.where}
    drawn_by = (study.x, study.by)  # told where there is one value too: other cells may have others
    out = []
    for cell in cells:
        f = cell.config.finetune
        trained = [a for a in f.arm_names if not study.arms or a in study.arms or a.split()[0] in study.arms]
        others = [a for a in study.arms if not any(a in (b, b.split()[0]) for b in f.arm_names)]
        for arm in (*others, *trained):
            for setting in f.settings(arm) if arm in trained else [{}]:
                if any(v != f.first_setting[k] for k, v in setting.items() if k in fixed):
                    continue
                values = {}
                for c in study.columns:
                    seeds = cell.read(c.pick(arm, setting))
                    values[c.name] = over_seeds(list(seeds.values())) if seeds else None
                told = {k: v for k, v in setting.items() if (len(getattr(f, k)) > 1 or k in drawn_by) and k not in fixed}
                out.append(Line(cell.levels, arm, told, values, bool(cell.gate and cell.gate.failures)))
    return out


def found_in(study: Study, cells: Sequence[Cell]) -> list[Found]:
    """Every contrast that can be measured on these cells."""

    def read(pick: Pick) -> dict[int, float]:
        (cell,) = [c for c in cells if all(str(pick.where[k]) == v for k, v in c.levels.items())]
        return cell.read(pick)

    def there(pick: Pick) -> bool:
        return any(all(str(pick.where[k]) == v for k, v in c.levels.items()) and c.read(pick) for c in cells)

    return [find(c, read) for c in study.contrasts if all(map(there, c.picks))]


def study_data(study: Study, lines: Sequence[Line], title: str) -> dict[str, Any]:
    """All that the figure is drawn from."""
    shown = [{"name": x.name, "levels": dict(x.levels), ARM: x.arm, "setting": dict(x.setting), "values": x.values} for x in lines]
    return {"title": title, "x": study.x, "y": study.y, "by": study.by, "log": study.log, "lines": shown}


RULE = (  # see `contrasts.find`
    "An effect agrees if its interval excludes zero and its mean is beyond the number (the interval may reach short of it), and disagrees "
    "if all of the interval is short of it; an absence agrees if all of the interval is within, and disagrees if all of it is beyond."
)
EXPECTED = {"above": "above", "below": "below", "zero": "within", "some": "some seeds"}


def study_sections(
    study: Study, cells: Sequence[Cell], lines: Sequence[Line], told: Sequence[Mapping]
) -> tuple[list[Section], list[Found]]:
    """Contrasts beside what was expected of them (those that were not measured too), what holds in which cell, and all lines."""
    out: list[Section] = []
    found = found_in(study, cells)
    expected = lambda c: f"{EXPECTED[c.expect]} {'-' if c.expect == 'below' else ''}{c.margin:g}"  # noqa: E731
    if study.contrasts:
        rows = [[f.contrast.name, expected(f.contrast), show(f.interval, 3), f.verdict, f.contrast.reading or ""] for f in found]
        there = {f.contrast.name for f in found}
        rows += [[c.name, expected(c), "–", "not measured", c.reading or ""] for c in study.contrasts if c.name not in there]
        note = f"What was expected beforehand, and what came: means over seeds, 95% intervals in brackets. {RULE}"
        out.append(("Asked", note, [["contrast", "expected", "here", "", "reading"], *rows]))
    if study.everywhere:
        rows = [[cell.name, *(_survives(c, cell) for c in study.everywhere)] for cell in cells]
        note = f"The same contrasts in every cell, and whether what was expected is there. {RULE}"
        out.append(("What survives", note, [["", *(f"{c.name} ({expected(c)})" for c in study.everywhere)], *rows]))
    out += detection_sections(study.detection, told) if study.detection else []
    if gates := list({id(c.gate): c.gate for c in cells if c.gate}.values()):  # an object a base
        rows = [["; ".join(c.name for c in cells if c.gate is gate), gate.lines[0].strip()] for gate in gates]
        out.append(("Bases", "Persona inference of each base beside the exact observer's.", [["cells", "gate"], *rows]))
    head = ["trained", *(c.name for c in study.columns)]
    rows = [[x.name, *(show(x.values[c.name]) for c in study.columns)] for x in lines]
    out.append(("All of it", "Means over seeds, 95% intervals in brackets.", [head, *rows]))
    return out, found


def _survives(contrast: Contrast, cell: Cell) -> str:
    """What came of a contrast in a cell."""
    if not all(map(cell.read, contrast.picks)):
        return "–"
    found = find(contrast, cell.read)
    return f"{show(found.interval)} {found.verdict}"


def write_parts(folder: Path, study: Study, cells: Sequence[Cell]) -> tuple[list[Section], dict[str, str], list[Found]]:
    """Sections and figures of a study's page; what figures are drawn from is left in its folder."""
    lines, names = lines_of(study, cells), [FIGURE]
    files.write_json(folder / f"{FIGURE}.json", study_data(study, lines, cells[0].config.name))
    detected = detection_data(study.detection, cells) if study.detection else {"found": []}
    if study.detection:
        files.write_json(folder / f"{DETECTION}.json", detected)
        names.append(DETECTION)
    sections, found = study_sections(study, cells, lines, detected["found"])
    return sections, drawn(names, folder), found


def write_study(folder: Path, cells: Sequence[Cell]):
    """The page of a grid: `report.html`, `result.md`, the figures, and what they are drawn from."""
    config = cells[0].config
    sections, figures, found = write_parts(folder, config.study, cells)
    about = f"{len(cells)} cells, {config.finetune.seeds} seeds each."
    html = template("study.html.jinja").render(question=config.question, name=config.name, sections=sections, figures=figures, about=about)
    files.write(folder / "report.html", html)
    files.write(folder / "result.md", as_markdown([config.question, about], sections, anchors=True))
    for f in found:
        print(f"  {f.contrast.name}: {show(f.interval, 3)}: {f.verdict}", flush=True)
