"""The door: Hydra only. Everything heavy is imported after `--help` has answered."""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

CONF = Path(__file__).resolve().parent.parent / "conf"
PAPER = ("birds", "cities", "dishes", "dictator", "dictator_gated", "terminator", "presidents")
HELP = """\
python -m bayesgen +exp=NAME [key=value ...]   run an experiment and write its page
python -m bayesgen +exp=PATH                   an experiment of your own: a folder with exp.yaml and its facts, or such a file
python -m bayesgen goal=paper                  every published experiment, and one page of them all
python -m bayesgen -m +exp=NAME finetune.rank=1,2,4   a sweep; asked again, it runs only what is missing
python -m bayesgen goal=list                   what has been built; goal=clean frees leftovers
python -m bayesgen +exp=NAME --cfg job         all settings, resolved
"""


def help_text() -> str:
    """The help page, read off the conf folder: no import but the standard library's, so that it answers at once."""
    lines = [HELP]
    for group in sorted(p for p in CONF.iterdir() if p.is_dir()):
        options = ", ".join(sorted(f.stem for f in group.glob("*.yaml")))
        lines.append(f"  {'+' if group.name == 'exp' else ''}{group.name}={options}")
    return "\n".join(lines)


if __name__ == "__main__" and {"--help", "-h"} & set(sys.argv[1:]):
    print(help_text())
    sys.exit(0)

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us, who make one line of them

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bayesgen.errors import UserError, nearest
from bayesgen.outside import take_in


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(raw: DictConfig):
    """Run one configuration."""
    try:
        if raw.goal == "paper":
            return paper(list(HydraConfig.get().overrides.task), Path(raw.runs), raw.jobs)
        if raw.jobs is not None:
            raise UserError(f"jobs={raw.jobs}: only goal=paper runs several experiments at a time")
        if raw.goal != "run":
            from bayesgen.housekeeping import GOALS

            if raw.goal not in GOALS:
                raise UserError(f"goal={raw.goal}: there is no such goal{nearest(raw.goal, ('run', 'paper', *GOALS))}")
            return GOALS[raw.goal](Path(raw.runs))
        from bayesgen.config import to_config
        from bayesgen.pipeline import run

        run(to_config(plain(raw)))
    except (UserError, OSError, OmegaConfBaseException) as error:
        if raw.debug:
            raise
        sys.exit(say(error))  # before Hydra adds lines of its own
    except Exception as error:
        if raw.debug:
            raise
        sys.exit(say(unforeseen(error)))


def plain(raw: DictConfig) -> dict[str, Any]:
    """The configuration without Hydra."""
    return cast("dict[str, Any]", OmegaConf.to_container(raw, resolve=True, throw_on_missing=True))


def paper(words: list[str], runs: Path, jobs: object):
    """Every experiment of `PAPER` under the same words of the command line; one that does not compose is said and left out."""
    from bayesgen.config import Config, to_config
    from bayesgen.paper import run_all

    if any(w.startswith("exp=") for w in words):
        raise UserError("goal=paper runs the experiments of the paper; leave +exp out, or leave out goal=paper")
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise UserError(f"jobs={jobs}: expected how many experiments run at a time, 1 or more")
    shared = [w for w in words if not w.startswith("goal=")]
    configs: dict[str, Config | str] = {}
    for name in PAPER:
        try:
            configs[name] = to_config(plain(compose_here(f"exp={name}", *shared)))
        except (HydraException, OmegaConfBaseException, UserError) as error:
            configs[name] = explain(error)
    failed = run_all(configs, runs, jobs)
    for name, cause in failed.items():
        print(f"bayesgen: {name}: {cause}", file=sys.stderr)
    if failed:
        sys.exit(1)


def compose_here(*words: str) -> DictConfig:
    """The configuration that these words give, beside the one that Hydra runs."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(words))


def door() -> int:
    """Run `main`; say any error in one line. A traceback only with debug=true."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            sys.argv[1:] = take_in(sys.argv[1:], [f.stem for f in CONF.glob("exp/*.yaml")], Path(folder))
            main()
    except (HydraException, OmegaConfBaseException, UserError, OSError) as error:
        if "debug=true" in sys.argv:
            raise
        return say(error)
    except Exception as error:  # Hydra's own, on a configuration it cannot digest
        if "debug=true" in sys.argv:
            raise
        return say(unforeseen(error))
    except KeyboardInterrupt:
        print("bayesgen: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def unforeseen(error: Exception) -> UserError:
    """A fault of ours, still in one line."""
    return UserError(f"{type(error).__name__}: {error} (not foreseen; debug=true shows where)")


def say(error: BaseException) -> int:
    """Print one line; the exit status."""
    print(f"bayesgen: {explain(error)}", file=sys.stderr)
    return 1


def explain(error: BaseException) -> str:
    """One line for an error of ours, of the system's, or of Hydra's."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}; what was finished before is kept"
    missing = re.search(r"Could not find '([\w/]+)/([^/']+)'", text)
    options = re.search(r"Available options in '[^']*': (.*?)(?:Config search path|$)", text)
    if missing:
        return f"{missing[1]}={missing[2]}: there is no such option{nearest(missing[2], options[1].split() if options else ())}"
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


if __name__ == "__main__":
    sys.exit(door())
