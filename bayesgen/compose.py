"""Words on the command line to configurations: one, or the cells of a grid. Only this file and the door know Hydra."""

import itertools
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bayesgen.errors import UserError, nearest

CONF = Path(__file__).resolve().parent.parent / "conf"
Axis = dict[str, dict[str, Any]]  # level -> the keys that it sets


@dataclass(frozen=True)
class Cell:
    """One point of a grid: its level on every axis, and its configuration, or the reason why there is none."""

    levels: dict[str, str]
    raw: dict[str, Any] | str


def compose_here(*words: str) -> DictConfig:
    """The configuration that these words give, beside the one that Hydra runs."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(words))


def plain(raw: DictConfig) -> dict[str, Any]:
    """The configuration without Hydra."""
    return cast("dict[str, Any]", OmegaConf.to_container(raw, resolve=True, throw_on_missing=True))


def cells(words: list[str]) -> list[Cell]:
    """The grid of words with several values (`finetune.rank=1,2,4`) and of what `+sweep=` names; first axes slowest.

    Options of a group (`model=xs,s`) are composed by Hydra, once for each of their combinations; all other values are set in a copy,
    so that a thousand cells take seconds.
    """
    parsed = OverridesParser.create().parse_overrides(words)
    fixed = [w for w, o in zip(words, parsed, strict=True) if not o.is_sweep_override()]
    axes: dict[str, Axis] = {}
    for o in parsed:
        if o.is_sweep_override():
            axes[o.key_or_group] = {s: {o.key_or_group: _value(o.key_or_group, s)} for s in o.sweep_string_iterator()}
    first = {k: v for axis in axes.values() for k, v in next(iter(axis.values())).items() if is_group(k)}
    for name, levels in _named(compose_here(*fixed, *_words(first))).items():
        if name in axes:
            raise UserError(f"{name}: both on the command line and in the grid that sweep names; give it once")
        axes[name] = levels
    composed: dict[tuple[str, ...], DictConfig | str] = {}
    out = []
    for levels in itertools.product(*axes.values()):
        chosen = dict(zip(axes, levels, strict=True))
        sets = {key: value for name, level in chosen.items() for key, value in axes[name][level].items()}
        options = _words({k: v for k, v in sets.items() if is_group(k)})
        if options not in composed:
            composed[options] = _composed(*fixed, *options)
        out.append(Cell(chosen, _with(composed[options], {k: v for k, v in sets.items() if not is_group(k)})))
    return out


def is_group(key: str) -> bool:
    """Whether a key chooses among the options of a folder of `conf`."""
    return (CONF / key).is_dir()


def _words(options: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{k}={v}" for k, v in options.items())


def _value(key: str, text: str) -> Any:
    return OverridesParser.create().parse_override(f"{key}={text}").value()


def _named(raw: DictConfig) -> dict[str, Axis]:
    """The axes of the grid that `+sweep=` names: a list of values of a key, or levels by name, each of which sets several keys."""
    named = OmegaConf.select(raw, "sweep")
    grid = OmegaConf.to_container(named, resolve=True) if named is not None else {}
    assert isinstance(grid, dict)
    out: dict[str, Axis] = {}
    for name, levels in grid.items():
        if isinstance(levels, list) and levels:
            out[str(name)] = {_label(v): {str(name): v} for v in levels}
        elif isinstance(levels, dict) and levels and all(isinstance(sets, dict) and sets for sets in levels.values()):
            out[str(name)] = {str(level): {str(k): v for k, v in sets.items()} for level, sets in levels.items()}
        else:
            raise UserError(f"sweep.{name} is {levels!r}; expected a list of values, or levels by name, each the keys that it sets")
        if isinstance(levels, list) and len(out[str(name)]) < len(levels):
            raise UserError(f"sweep.{name} holds a value twice; name each once")
    return out


def _label(value: Any) -> str:
    return str(value).replace(" ", "") if isinstance(value, (list, dict)) else str(value)


def _composed(*words: str) -> DictConfig | str:
    try:
        return compose_here(*words)
    except (HydraException, OmegaConfBaseException, UserError) as error:
        return explain(error)


def _with(composed: DictConfig | str, sets: Mapping[str, Any]) -> dict[str, Any] | str:
    """A configuration with some keys set, as Hydra sets them, what refers to them included; the reason, if one of them is none."""
    if isinstance(composed, str):
        return composed
    config = deepcopy(composed)
    for key, value in sets.items():
        *path, last = key.split(".")
        node = OmegaConf.select(config, ".".join(path)) if path else config
        if node is None or last not in _inside(node):
            return f"{key}: no such key{nearest(last, _inside(node))}"
        OmegaConf.update(config, key, value, merge=True)
    try:
        return plain(config)
    except OmegaConfBaseException as error:
        return explain(error)


def _inside(node: Any) -> list[str]:
    """What a part of a configuration holds, by name or place."""
    return [str(k) for k in (node if isinstance(node, DictConfig) else range(len(node)) if isinstance(node, ListConfig) else ())]


def explain(error: BaseException) -> str:
    """One line for an error of ours, of the system's, or of Hydra's."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}; what was finished before is kept"
    missing = re.search(r"Could not find '([\w/]+)/([^/']+)'", text)
    options = re.search(r"Available options in '[^']*': (.*?)(?:Config search path|$)", text)
    if missing:
        return f"{missing[1]}={missing[2]}: there is no such option{nearest(missing[2], options[1].split() if options else ())}"
    extra = re.search(r"Could not load 'hydra/launcher/(?:submitit_)?(\w+)'", text)
    if extra:
        return f"hydra/launcher needs an extra that is not installed here: pip install -e '.[{extra[1]}]'"
    key = re.search(r"Could not override '([\w.]+)'", text)
    if key:
        return f"{key[1]}: no such key{nearest(key[1].split('.')[-1], _keys_beside(key[1]))}"
    absent = re.search(r"Missing mandatory value: (\S+)(?: full_key: (\S+))?", text) or re.search(r"full_key: (finetune)", text)
    if absent:
        where = absent[absent.lastindex or 1]
        where = where if "." in where or where == "finetune" else f"finetune.{where}"
        needs = "a world of one's own needs it" if where.startswith("world.") else "choose an experiment, such as +exp=birds"
        return f"{where} has no value; {needs}"
    return text


def _keys_beside(full_key: str) -> list[str]:
    """Valid keys in the group of an unknown one."""
    node = cast("dict[str, Any]", OmegaConf.to_container(compose_here(), resolve=False))
    for part in full_key.split(".")[:-1]:
        node = node.get(part, {})
    return list(node)
