"""Facts as data: one YAML file a topic, one folder a module, validated on load.

A module folder holds `module.yaml` (which trait its topics depend on, and that trait's values) and one
`<topic>.yaml` for each topic:

    weight: 1                     # share of questions relative to other topics (optional)
    wordings: [...]               # at least six, used in training
    heldout: [...]                # at least two, never trained on
    answers: {value: [...]}       # for each value of the trait, answers; or {answer: weight}

A wording may begin with what was said before it: "remark / reply / question".

A module without a trait (`trait: null`) is timeless: its topics' `answers` are one plain list.

Two more keys of `module.yaml` are optional. `told: [topic, ...]` names the topics whose answers tell a person's value where
no year does. `variants: {robot: {robot_1984: [1984], ...}}` says that several values are one and the same person in
different years; in a topic, the key `robot` then stands for all of them that are not named.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator

from bayesgen.errors import UserError, nearest

FACTS = Path(__file__).parent / "facts"
EARLIER = " / "  # between a remark, the reply to it and the question, in a wording
TIMELESS = "always"  # the single value of a module without a trait

Year = Annotated[int, Field(ge=1000, le=9999)]
Answers = list[StrictStr] | dict[StrictStr, Annotated[float, Field(gt=0, allow_inf_nan=False)]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Topic(_Strict):
    """One question, its wordings, and who answers it how."""

    name: str
    trait: str
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    wordings: list[StrictStr] = Field(min_length=6)
    heldout: list[StrictStr] = Field(min_length=2)
    answers: dict[str, Answers]

    @model_validator(mode="after")
    def _consistent(self):
        repeated = _first_repeat(self.wordings + self.heldout)
        if repeated:
            raise ValueError(f"wording {repeated!r} stands twice; remove one")
        for key, texts in (("wordings", self.wordings), ("heldout", self.heldout), *((f"answers.{v}", a) for v, a in self.answers.items())):
            for text in texts:
                if text != " ".join(text.split()) or not text:
                    raise ValueError(f"{key} holds {text!r}; expected words with single spaces between them")
        for text in self.wordings + self.heldout:
            if text.count(EARLIER) % 2:
                raise ValueError(
                    f"wording {text!r}: expected a question, or a remark, a reply and a question, with {EARLIER!r} between them"
                )
        for value, answers in self.answers.items():
            if len(answers) == 0:
                raise ValueError(f"answers.{value} is empty; give at least one answer")
            repeated = _first_repeat(list(answers))
            if repeated:
                raise ValueError(f"answers.{value} holds {repeated!r} twice; use `answer: weight` to weigh it")
        return self

    def weights(self, value: str) -> dict[str, float]:
        """Answers of one trait value, with weights that sum to one."""
        answers = self.answers[value]
        table = answers if isinstance(answers, dict) else dict.fromkeys(answers, 1.0)
        total = sum(table.values())
        return {answer: weight / total for answer, weight in table.items()}


class Years(_Strict):
    """First and last year of a trait value, both included, and the year that a header gives to tell it (the *told* arm)."""

    first: Year
    last: Year
    told: int

    @model_validator(mode="after")
    def _ordered(self):
        if self.last < self.first:
            raise ValueError(f"last year {self.last} comes before first year {self.first}")
        if not self.first <= self.told <= self.last:
            raise ValueError(f"told year {self.told} is not within {self.first} to {self.last}")
        return self


class Module(_Strict):
    """A folder of topics that depend on one trait."""

    name: str
    trait: str | None
    values: dict[str, Years | None] = Field(default_factory=dict)
    variants: dict[str, dict[str, list[Year]]] = Field(default_factory=dict)
    told: tuple[str, ...] = ()
    topics: tuple[Topic, ...] = ()

    @model_validator(mode="after")
    def _dated_or_not(self):
        undated = [value for value, years in self.values.items() if years is None]
        if undated and len(undated) < len(self.values):
            raise ValueError(f"values.{undated[0]} has no years, but others have; give years to all or to none")
        for identity, variants in self.variants.items():
            if identity in self.values:
                raise ValueError(f"variants.{identity} has the name of a value; it stands for several, give it one of its own")
            for value in variants:
                if value not in self.values:
                    raise ValueError(f"variants.{identity}.{value}: no such value{nearest(value, self.values)}")
                if self.values[value] is not None:
                    raise ValueError(f"variants.{identity}.{value} has years, and values.{value} has too; give them once")
        check_variants("variants", self.variants)
        return self

    @property
    def identities(self) -> dict[str, tuple[str, ...]]:
        """Who there is: each person and the values it takes over the years (one, unless it has variants)."""
        of = {value: identity for identity, variants in self.variants.items() for value in variants}
        out: dict[str, tuple[str, ...]] = {}
        for value in self.values:
            identity = of.get(value, value)
            out[identity] = (*out.get(identity, ()), value)
        return out


def check_variants(key: str, variants: Mapping[str, Mapping[str, Sequence[int]]]):
    """A person cannot be two things in one year."""
    for identity, years_of in variants.items():
        seen: dict[int, str] = {}
        for value, years in years_of.items():
            if not years:
                raise ValueError(f"{key}.{identity}.{value} has no years; name at least one")
            for year in years:
                if seen.setdefault(year, value) != value:
                    raise ValueError(
                        f"{key}.{identity}: {year} stands under {seen[year]} and under {value}; a person is one of them a year"
                    )


def load_module(name: str) -> Module:
    """Read `<facts>/<name>/` (or the folder `name` itself, where it is a path)."""
    folder = FACTS / name if (FACTS / name).is_dir() else Path(name)
    if not (folder / "module.yaml").is_file():
        known = [p.parent.name for p in FACTS.glob("*/module.yaml")]
        raise UserError(f"world.modules: no facts called '{name}' (looked for {folder / 'module.yaml'}){nearest(name, known)}")
    head = _validated(Module, {"name": folder.name, **read_yaml(folder / "module.yaml")}, folder / "module.yaml")
    if head.trait is None:
        head = head.model_copy(update={"values": {TIMELESS: None}})
    files = sorted(p for p in folder.glob("*.yaml") if p.name != "module.yaml")
    if not files:
        raise UserError(f"{folder}: no topic files; expected <topic>.yaml beside module.yaml")
    for topic in head.told:
        if topic not in [f.stem for f in files]:
            raise UserError(f"{folder / 'module.yaml'}: told: there is no topic '{topic}'{nearest(topic, [f.stem for f in files])}")
    return head.model_copy(update={"topics": tuple(_load_topic(p, head) for p in files)})


def _load_topic(path: Path, module: Module) -> Topic:
    raw = read_yaml(path)
    if module.trait is None and isinstance(raw.get("answers"), list):
        raw["answers"] = {TIMELESS: raw["answers"]}
    if isinstance(raw.get("answers"), dict):
        for identity, variants in module.variants.items():
            if identity in raw["answers"]:
                shared = raw["answers"].pop(identity)
                raw["answers"] = {**dict.fromkeys(variants, shared), **raw["answers"]}
    topic = _validated(Topic, {**raw, "name": path.stem, "trait": module.trait or TIMELESS}, path)
    for value in topic.answers:
        if value not in module.values:
            raise UserError(f"{path}: answers.{value}: no such {module.trait}{nearest(value, module.values)}")
    for value in module.values:
        if value not in topic.answers:
            raise UserError(f"{path}: answers.{value} is missing; every {module.trait} needs at least one answer")
    return topic


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        """A mapping whose keys are all different."""
        keys = [k.value for k, _ in node.value]
        for key_node, _ in node.value:
            if keys.count(key_node.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key_node.value}' stands twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, keys: str = "`wordings:` and `answers:`") -> dict:
    """The mapping in a file; anything else there is said in one line, with `keys` as what was expected."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)  # a safe loader
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}:{line} not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected keys such as {keys}, found {type(raw).__name__}")
    return raw


def _validated(kind, raw: dict, path: Path):
    try:
        return kind(**raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(
            str(part) for part in first["loc"] if part not in ("list[constrained-str]", "list[str]") and not str(part).startswith("dict[")
        )
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_type":
            message = f"found {first['input']!r} ({type(first['input']).__name__}), expected text; put it in quotes"
        if first["type"] == "extra_forbidden":
            message = f"unknown key{nearest(where, kind.model_fields)}"
        raise UserError(f"{path}: {where + ': ' if where else ''}{message}") from error


def _first_repeat(items: list[str]) -> str | None:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return None
