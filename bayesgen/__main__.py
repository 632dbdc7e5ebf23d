"""The door: Hydra only. Everything heavy is imported after `--help` has answered."""

import os
import re
import sys
from pathlib import Path
from typing import Any, cast

CONF = Path(__file__).resolve().parent.parent / "conf"
HELP = """\
python -m bayesgen +exp=NAME [key=value ...]   run an experiment and write its page
python -m bayesgen -m +exp=NAME finetune.rank=1,2,4   a sweep; asked again, it runs only what is missing
python -m bayesgen goal=list                   what has been built; goal=clean frees leftovers
python -m bayesgen +exp=NAME --cfg job         all settings, resolved
"""


def help_text() -> str:
    """The help page, read off the conf folder: no import but the standard library's, so that it answers at once."""
    lines = [HELP]
    for group in sorted(p for p in CONF.iterdir() if p.is_dir()):
        options = ", ".join(sorted(f.stem for f in group.glob("*.yaml")))
        lines.append(f"  {'+' if group.name in ('exp', 'sweep') else ''}{group.name}={options}")
    return "\n".join(lines)


if __name__ == "__main__" and {"--help", "-h"} & set(sys.argv[1:]):
    print(help_text())
    sys.exit(0)

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us, who make one line of them

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bayesgen.errors import UserError, nearest


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(raw: DictConfig):
    """Run one configuration."""
    try:
        if raw.goal != "run":
            from bayesgen.housekeeping import GOALS

            if raw.goal not in GOALS:
                raise UserError(f"goal={raw.goal}: there is no such goal{nearest(raw.goal, ('run', *GOALS))}")
            return GOALS[raw.goal](Path(raw.runs))
        from bayesgen.config import to_config
        from bayesgen.pipeline import run

        run(to_config(cast("dict[str, Any]", OmegaConf.to_container(raw, resolve=True, throw_on_missing=True))))
    except (UserError, OSError, OmegaConfBaseException) as error:
        if raw.debug:
            raise
        sys.exit(say(error))  # before Hydra adds lines of its own
    except Exception as error:
        if raw.debug:
            raise
        sys.exit(say(unforeseen(error)))


def door() -> int:
    """Run `main`; say any error in one line. A traceback only with debug=true."""
    try:
        main()
    except (HydraException, OmegaConfBaseException, UserError) as error:
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
    if key and key[1] in ("exp", "sweep"):
        return f"{key[1]}: an option that is added takes a plus: +{key[1]}=..."
    if key:
        return f"{key[1]}: no such key{nearest(key[1].split('.')[-1], _keys_beside(key[1]))}"
    absent = re.search(r"Missing mandatory value: (\S+)", text) or re.search(r"full_key: (finetune)", text)
    if absent:
        return f"finetune.{absent[1]} has no value; choose an experiment, such as +exp=birds"
    return text


def _keys_beside(full_key: str) -> list[str]:
    """Valid keys in the group of an unknown one."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = cast("dict[str, Any]", OmegaConf.to_container(compose("config"), resolve=False))
    for part in full_key.split(".")[:-1]:
        node = node.get(part, {})
    return list(node)


if __name__ == "__main__":
    sys.exit(door())
