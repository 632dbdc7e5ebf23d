"""Frozen settings of all stages, and the one function that turns Hydra's configuration into them."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bayesgen.errors import UserError, nearest
from bayesgen.learn.plan import FinetuneConfig
from bayesgen.learn.pretrain import PretrainConfig
from bayesgen.measure.settings import COMPARED, MeasureConfig
from bayesgen.model.lora import check_targets
from bayesgen.model.transformer import ModelConfig
from bayesgen.report.contrasts import Contrast
from bayesgen.report.study import Study
from bayesgen.world.world import WorldConfig

Settings = TypeVar("Settings", bound=BaseModel)
DOOR = ("goal", "jobs", "dry_run", "sweep", "infer")  # what is to be done with it, which is no part of it


class Config(BaseModel):
    """Everything a run is: one frozen config a stage, in pipeline order."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    world: WorldConfig
    model: ModelConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    measure: MeasureConfig
    name: str = Field(pattern=r"^[\w.-]+$")  # a folder is called so
    question: str
    contrasts: tuple[Contrast, ...] = ()  # what was published of it, or what a user asks
    study: Study | None = None  # what is asked of all its settings, or of the cells of its grid
    runs: Path
    device: Literal["cpu", "gpu", "tpu"] | None
    hosts: str | None = None  # see `hosts.join`
    debug: bool


def to_config(raw: dict[str, Any]) -> Config:
    """Hydra's resolved configuration (a plain dict) as a `Config`; the first thing wrong is one line."""
    if raw.get("name") is None:
        raise UserError("no experiment chosen; add +exp=birds")
    try:
        config = Config(**{k: v for k, v in raw.items() if k not in DOOR})
    except ValidationError as error:
        raise UserError(_first_line(error, raw)) from error
    if config.measure.cost and not set(COMPARED) <= set(config.finetune.arms):
        raw["finetune"]["arms"] = [*COMPARED, *(a for a in config.finetune.arms if a not in COMPARED)]  # costs compare these
        return to_config(raw)
    check_targets(config.finetune.targets, max(config.finetune.rank), config.model.width)
    if config.pretrain.length > config.model.context:
        raise UserError(f"pretrain.length is {config.pretrain.length}, longer than model.context {config.model.context}")
    _check_folder(config.runs)
    return config


def settings(kind: type[Settings], raw: dict[str, Any], group: str) -> Settings:
    """One group of Hydra's configuration; the first thing wrong is one line."""
    try:
        return kind(**raw)
    except ValidationError as error:
        raise UserError(f"{group}.{_first_line(error, raw, kind)}") from error


def _first_line(error: ValidationError, raw: dict[str, Any], of: Any = Config) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        kind: Any = of
        for part in first["loc"][:-1]:
            kind = kind.model_fields[part].annotation if hasattr(kind, "model_fields") and part in kind.model_fields else None
        return f"{where}: no such key{nearest(str(first['loc'][-1]), getattr(kind, 'model_fields', ()))}"
    if first["type"] == "missing":
        return f"{where} is missing"
    message = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] == "value_error" else f", found {first['input']!r}"
    return f"{where}: {message[0].lower() + message[1:]}{found}"


def _check_folder(runs: Path):
    """A folder that cannot be made is said before anything is computed; one that can only be read may hold all that is asked for."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"runs={runs}: cannot be made ({error.strerror}); give a folder you may write to") from error
