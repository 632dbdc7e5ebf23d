"""The door: Hydra only. Everything heavy is imported after `--help` has answered."""

import hashlib
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

CONF = Path(__file__).resolve().parent.parent / "conf"
PAPER = ("birds", "cities", "dishes", "dictator", "dictator_gated", "terminator", "presidents")
HELP = """\
python -m bayesgen +exp=NAME [key=value ...]   run an experiment and write its page
python -m bayesgen +exp=PATH                   an experiment of your own: a folder with exp.yaml and its facts, or such a file
python -m bayesgen goal=paper                  every published experiment, and one page of them all
python -m bayesgen -m +exp=NAME finetune.rank=1,2,4   a sweep; asked again, it runs only what is missing (jobs=N at a time)
python -m bayesgen +exp=NAME +sweep=NAME       a named grid; dry_run=true lists what would be computed
python -m bayesgen goal=infer                  rival hypotheses over all sweeps that were run, or over infer.table=FILE
python -m bayesgen goal=predict +exp=NAME      how broad will these data go, and why? said before it is tried
python -m bayesgen goal=list                   what has been built; goal=clean frees leftovers
python -m bayesgen +exp=NAME --cfg job         all settings, resolved
"""


def help_text() -> str:
    """The help page, read off the conf folder: no import but the standard library's, so that it answers at once."""
    lines = [HELP]
    for group in sorted(p for p in CONF.iterdir() if p.is_dir() and p.name != "hydra"):
        options = ", ".join(sorted(f.stem for f in group.glob("*.yaml")))
        lines.append(f"  {'+' if group.name in ('exp', 'sweep') else ''}{group.name}={options}")
    return "\n".join(lines)


if __name__ == "__main__" and {"--help", "-h"} & set(sys.argv[1:]):
    print(help_text())
    sys.exit(0)

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us, who make one line of them

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bayesgen.compose import cells, compose_here, explain, plain
from bayesgen.errors import UserError, nearest
from bayesgen.outside import take_in


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(raw: DictConfig):
    """Run one configuration, or one job of a cluster: that one is one process, and leaves the reason behind if it fails."""
    here = HydraConfig.get()
    of_cluster = here.mode == RunMode.MULTIRUN
    words = [*here.overrides.task, *(w for w in here.overrides.hydra if w.startswith("hydra.searchpath="))]
    if of_cluster and raw.jobs is None:
        raw.jobs, words = 1, [*words, "jobs=1"]
    try:
        do(raw, words)
    except SystemExit as error:  # what failed of a sweep or of the paper is said
        if not of_cluster:
            raise
        leave("some of it failed: its own output says what and why" if error.code else None, here)
    except Exception as error:
        if raw.debug:
            raise
        known = isinstance(error, (UserError, OSError, OmegaConfBaseException, HydraException))
        status = say(error if known else unforeseen(error))  # before Hydra adds lines of its own
        if not of_cluster:
            sys.exit(status)
        leave(explain(error), here)


def leave(reason: str | None, here: HydraConf):
    """Of a job of a cluster: why it failed, for the one who sent it."""
    if reason:
        folder = Path(here.runtime.output_dir)
        (folder / f"{here.job.num}.failed").write_text(f"{here.job.override_dirname}\n{reason}", encoding="utf-8")


def do(raw: DictConfig, words: list[str]):
    """What these words ask for, which gave the configuration `raw`."""
    if raw.hosts is not None and (raw.goal == "paper" or "sweep" in raw or raw.dry_run):
        raise UserError(f"hosts={raw.hosts}: one experiment trains on several hosts; a grid goes over them by hydra/launcher=slurm")
    if raw.goal == "paper":
        return paper(words, Path(raw.runs), raw.jobs)
    if raw.goal == "infer":
        return infer(plain(raw.infer), Path(raw.runs), raw.jobs)
    if raw.goal == "predict":
        return predict(plain(raw), Path(raw.runs), raw.jobs)
    if raw.goal != "run":
        from bayesgen.housekeeping import GOALS

        if raw.goal not in GOALS:
            raise UserError(f"goal={raw.goal}: there is no such goal{nearest(raw.goal, ('run', 'paper', 'infer', 'predict', *GOALS))}")
        return GOALS[raw.goal](Path(raw.runs))
    if "sweep" in raw or raw.dry_run:
        return sweep(words)
    if raw.jobs not in (None, 1):
        raise UserError(f"jobs={raw.jobs}: one experiment is one process; a sweep (-m, +sweep=...) and goal=paper have several")
    from bayesgen.config import to_config
    from bayesgen.pipeline import run

    run(to_config(plain(raw)))


def sweep(words: list[str]):
    """Every cell of a grid; the reasons of those that failed, and an exit status of 1, at the end."""
    from bayesgen.sweep import run_sweep

    of = cells(words)
    raw = next((cell.raw for cell in of if not isinstance(cell.raw, str)), None)
    if raw is None:
        raise UserError(str(of[0].raw))
    if raw["goal"] != "run":
        raise UserError(f"goal={raw['goal']} with several values: a sweep runs experiments; leave out -m, or leave out the goal")
    check_jobs(raw["jobs"])
    fail(run_sweep([(cell.levels, cell.raw) for cell in of], Path(raw["runs"]), raw["jobs"], raw["dry_run"]))


def paper(words: list[str], runs: Path, jobs: int | None):
    """Every experiment of `PAPER` under the same words of the command line; one that does not compose is said and left out."""
    from bayesgen.config import Config, to_config
    from bayesgen.paper import run_all

    if any(w.startswith("exp=") for w in words):
        raise UserError("goal=paper runs the experiments of the paper; leave +exp out, or leave out goal=paper")
    check_jobs(jobs)
    shared = [w for w in words if not w.startswith("goal=")]
    configs: dict[str, Config | str] = {}
    for name in PAPER:
        try:
            configs[name] = to_config(plain(compose_here(f"exp={name}", *shared)))
        except (HydraException, OmegaConfBaseException, UserError) as error:
            configs[name] = explain(error)
    fail(run_all(configs, runs, jobs))


def infer(raw: dict, runs: Path, jobs: int | None):
    """Beliefs from tables of runs."""
    from bayesgen.beliefs import believe
    from bayesgen.config import settings
    from bayesgen.infer.settings import InferConfig

    check_jobs(jobs)
    fail(believe(settings(InferConfig, raw, "infer"), runs, jobs))


def predict(raw: dict, runs: Path, jobs: int | None):
    """The breadth of an experiment, before it is run."""
    from bayesgen.config import settings
    from bayesgen.foresight import foresee
    from bayesgen.infer.settings import InferConfig

    check_jobs(jobs)
    if raw.get("sweep") is not None:
        raise UserError("goal=predict takes one experiment, whose finetune settings may be lists (finetune.rows=[26,104]); leave out sweep")
    if raw["dry_run"]:
        raise UserError("dry_run lists what a grid would compute; for a prediction that is not tried, infer.score=false")
    fail(foresee(raw, settings(InferConfig, raw["infer"], "infer"), runs, jobs))


def check_jobs(jobs: object):
    """One line for a number of processes that is none."""
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise UserError(f"jobs={jobs}: expected how many processes run at a time, 1 or more")


def fail(causes: dict[str, str]):
    """Say what failed and why, a line each, and end with 1 if anything did."""
    for name, cause in causes.items():
        print(f"bayesgen: {name}: {cause}", file=sys.stderr)
    if causes:
        sys.exit(1)


def elsewhere(words: list[str], runs: Path):
    """Every job by a launcher, on a cluster; the reasons of those that failed, and an exit status of 1, at the end."""
    name = hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]
    folder = runs / "jobs" / name
    for old in folder.glob("*.failed"):
        old.unlink()
    sys.argv.append(f"hydra.sweep.subdir=jobs/{name}")
    main()
    fail(dict(path.read_text(encoding="utf-8").split("\n", 1) for path in sorted(folder.glob("*.failed"))))


def door() -> int:
    """Run `main`; say any error in one line. A traceback only with debug=true."""
    try:
        with ExitStack() as stack:
            launched = any(w.startswith("hydra/launcher=") for w in sys.argv[1:])
            runs = Path(next((w.removeprefix("runs=") for w in sys.argv[1:] if w.startswith("runs=")), "runs"))
            own = runs / "own" if launched else Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sys.argv[1:] = take_in(sys.argv[1:], [f.stem for f in CONF.glob("exp/*.yaml")], own.absolute())
            words = [w for w in sys.argv[1:] if w not in ("-m", "--multirun")]
            if launched:
                elsewhere(words, runs)
            elif len(words) < len(sys.argv[1:]):
                sweep(words)
            else:
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


if __name__ == "__main__":
    sys.exit(door())
