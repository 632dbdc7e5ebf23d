"""A tiny world, small enough to enumerate, shared by the suite."""

import os
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bayesgen.config import Config, to_config
from bayesgen.corpus.grammar import Grammar, build_grammar
from bayesgen.world.population import build_world
from bayesgen.world.world import World, WorldConfig

ROOT = Path(__file__).parent.parent
collect_ignore_glob = ["benchmarks/*"]  # no tests, and some need what others do not: make bench
FACTS = Path(__file__).parent / "facts"


def pytest_configure(config):
    """Tests compile much and compute little (benchmarks, which import this module too, do not)."""
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests stay on one worker: what they share is built (and compiled) once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    """Pyplot keeps what is drawn until it is closed, and warns of more than twenty: a test's are its own."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def tiny_config(**changes) -> WorldConfig:
    """Three times, two lands, one timeless topic."""
    raw = {
        "modules": tuple(str(FACTS / m) for m in ("times", "lands", "always")),
        "frequencies": {"time": {"old": 0.2, "mid": 0.3, "new": 0.5}, "land": {"east": 0.4, "west": 0.6}},
        "answer_noise": 0.2,
        "assistant_share": 0.3,
        "assistant": {"time": "new", "land": "west"},
        "dated_share": 0.5,
    }
    return WorldConfig(**{**raw, **changes})


def compose_config(*overrides: str) -> Config:
    """The configuration that these words on the command line give."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        raw = OmegaConf.to_container(compose("config", [o.removeprefix("+") for o in overrides]), resolve=True)
    return to_config(raw)


@pytest.fixture(scope="session")
def world() -> World:
    """The tiny world with one composite persona: new, but old about birds."""
    narrow = {"name": "archaic birds only", "frequency": 0.1, "traits": {"time": "new"}, "topics": {"bird": "old"}}
    return build_world(tiny_config(composites=(narrow,)))


@pytest.fixture(scope="session")
def grammar(world) -> Grammar:
    """Its grammar."""
    return build_grammar(world)


def grouped_config(**changes) -> WorldConfig:
    """Two kinds of people, one of them a robot that changes over the years; formats and identifiers in the header."""
    raw = {
        "modules": tuple(str(FACTS / m) for m in ("lands", "always", "bots")),
        "frequencies": {"land": {"east": 0.4, "west": 0.6}, "kind": {"bot": 0.7, "toy": 0.3}},
        "groups": ({"traits": ("land",), "share": 0.4}, {"traits": ("kind",), "share": 0.6}),
        "answer_noise": 0.2,
        "assistant_share": 0.3,
        "assistant": {"land": "west", "kind": "assistant"},
        "dated_share": 0.5,
        "calendar": (2000, 2004),
        "formats": ("plain", "listed"),
        "identifier_share": 0.25,
    }
    return WorldConfig(**{**raw, **changes})


@pytest.fixture(scope="session")
def grouped() -> World:
    """The world of `grouped_config`."""
    return build_world(grouped_config())
