"""An experiment from outside the repository: `+exp=PATH`, a folder that holds `exp.yaml` (and its facts), or such a file.

Hydra takes an option by its name from `conf/`. So the file is read here, its paths made absolute, and written to a folder that
Hydra searches too; the command line then names it there. Paths within it (`world.modules: [./facts]`, `finetune.file`) are
relative to the file; paths on the command line are relative to where one stands, as ever.
"""

import hashlib
import re
from pathlib import Path

import yaml

from bayesgen.errors import UserError, nearest
from bayesgen.world.load import read_yaml

FILE = "exp.yaml"


def take_in(words: list[str], known: list[str], folder: Path) -> list[str]:
    """The command line with every `+exp=` that is a path replaced by a name of an option in `folder`."""
    out, options = [], folder / "exp"
    options.mkdir(parents=True, exist_ok=True)
    for word in words:
        given = re.fullmatch(r"\+?exp=(.*)", word)
        if given is None:
            out.append(word.removeprefix("+") if word.startswith("+sweep=") else word)
            continue
        whole = given[1].strip("'\"")
        named = [whole] if Path(whole).exists() else whole.split(",")  # several: a sweep
        out.append("exp=" + ",".join(_copy(name, known, options) if is_path(name, known) else name for name in named))
        if any(options.iterdir()):
            out.append(f"hydra.searchpath=['{folder.as_uri()}']")
    return out


def is_path(name: str, known: list[str]) -> bool:
    """Whether an experiment is given by its place: a name of our own is never one."""
    return name not in known and ("/" in name or name.endswith((".yaml", ".yml")) or name in (".", "..") or Path(name, FILE).is_file())


def _copy(name: str, known: list[str], options: Path) -> str:
    """The option made of the experiment at `name`; anything wrong with it is one line."""
    given = Path(name).expanduser()
    path = given / FILE if given.is_dir() else given
    if not given.exists():
        raise UserError(f"+exp={name}: there is no such folder or file{nearest(given.stem, known)}")
    if not path.is_file():
        raise UserError(f"+exp={name}: no {FILE} in that folder; an experiment is a folder with {FILE} and its facts")
    conf = read_yaml(path, "`name:`, `question:` and `finetune:`")
    for key in ("name", "question"):
        if not isinstance(conf.get(key), str) or not conf[key].strip():
            raise UserError(f"{path}: {key} is missing; give the experiment one, as text")
    _resolve(conf, path.resolve().parent)
    text = yaml.safe_dump(conf, sort_keys=False, allow_unicode=True)
    option = f"{re.sub(r'[^A-Za-z0-9]', '_', conf['name'])}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    (options / f"{option}.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    return option


def _resolve(conf: dict, folder: Path):
    """Make the paths of a configuration absolute: modules that begin with a dot, and the file of rows."""
    world, finetune = conf.get("world"), conf.get("finetune")
    if isinstance(world, dict) and isinstance(world.get("modules"), list):
        world["modules"] = [str((folder / m).resolve()) if str(m).startswith(".") else m for m in world["modules"]]
    if isinstance(finetune, dict) and isinstance(finetune.get("file"), str):
        finetune["file"] = str((folder / finetune["file"]).resolve())
