"""The door: Hydra only. Everything heavy is imported after `--help` has answered."""

import os
import re
import sys

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us, who make one line of them

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bayesgen.errors import UserError, nearest


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(raw: DictConfig):
    """Run one configuration."""
    from bayesgen.config import to_config
    from bayesgen.pipeline import run

    run(to_config(OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)))


def door() -> int:
    """Run `main`; say any error in one line. A traceback only with debug=true."""
    try:
        main()
    except (UserError, OSError, HydraException, OmegaConfBaseException) as error:
        if "debug=true" in sys.argv:
            raise
        print(f"bayesgen: {explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bayesgen: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def explain(error: BaseException) -> str:
    """One line for an error of ours, of the system's, or of Hydra's."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}; what was finished before is kept"
    missing = re.search(r"Could not find '([\w/]+)/([^/']+)'", text)
    options = re.search(r"Available options in '[^']*': (.*?)(?:Config search path|$)", text)
    if missing:
        return f"{missing[1]}={missing[2]}: there is no such option{nearest(missing[2], options[1].split() if options else ())}"
    key = re.search(r"Key '([^']+)' is not in struct full_key: (\S+)", text)
    if key:
        return f"{key[2]}: no such key{nearest(key[1], _keys_beside(key[2]))}"
    absent = re.search(r"Missing mandatory value: (\S+)", text)
    if absent:
        return f"{absent[1]} has no value; choose an experiment, such as +exp=birds"
    return text


def _keys_beside(full_key: str) -> list[str]:
    """Valid keys in the group of an unknown one."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    here = os.path.join(os.path.dirname(__file__), "..", "conf")
    with initialize_config_dir(os.path.abspath(here), version_base="1.3"):
        node = OmegaConf.to_container(compose("config"), resolve=False)
    for part in full_key.split(".")[:-1]:
        node = node.get(part, {})
    return list(node)


if __name__ == "__main__":
    sys.exit(door())
