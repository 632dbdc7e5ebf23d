"""The result in one table: a line for every arm and setting, over seeds; printed, put on the page, and kept as Markdown (`markdown.py`)."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import polars as pl

from bayesgen.learn.data import trained_topics
from bayesgen.measure.contexts import counted_value, everywhere
from bayesgen.measure.gate import BaseGate
from bayesgen.measure.intervals import Interval, over_seeds
from bayesgen.measure.norms import NORMS
from bayesgen.measure.onset import share
from bayesgen.measure.rows import ABLATED, at_setting, at_the_end, converged, diverged, spell_setting
from bayesgen.report.admission import Gate, admission
from bayesgen.report.contrasts import Contrast, Found, Pick, by_seed, find, measurable
from bayesgen.world.load import TIMELESS

STILL = 0.02  # what does not depend on the trait should not move further than this (total variation)
SHOWN = 0.05  # a value with less of the answers is not named among those who answer
LEFT_OUT = ("narrow", "broad")  # arms that are trained on other topics as well


def names_of(config, world) -> dict:
    """The names that tables and figures need beside the rows."""
    f, m = config.finetune, config.measure
    first, trained = m.contexts[0], trained_topics(world, f)
    return {
        "trait": m.trait,
        "value": counted_value(world, f, m, first),
        "ordinary": world.config.assistant[m.trait],
        "searched": m.searched,
        "trained": [world.topics[t].name for t in trained],
        "everywhere": [world.topics[t].name for t in everywhere(trained)],
        "probes": list(f.probes),
        "contexts": {c.name: counted_value(world, f, m, c) for c in m.contexts},
        "years": {c.name: c.year for c in m.contexts if c.year is not None},
        "trigger_years": list(f.years),
        "followed": [first.name, *(n for n in m.followed if n != first.name)],
        "snapshots": list(f.snapshot_steps),
        "rows": list(f.rows),
        "setting": {**f.first_setting, "rows": max(f.rows)},
    }


def headline_table(table: pl.DataFrame, config, world) -> list[dict]:
    """One line an arm and setting: rates, adoption, loss of default, transfer, movement elsewhere, likelihood and norm; over seeds."""
    f, lost, story = config.finetune, diverged(table), names_of(config, world)
    now, value, probes, trained = at_the_end(table), story["value"], story["probes"], story["trained"]
    now = now.filter(pl.col("context").is_in([next(iter(story["contexts"])), "all"]))
    still = {trait: [world.topics[t].name for t in world.topics_of(trait)] for trait in still_traits(config, world)}

    def line(arm: str, setting: Mapping[str, float | int | str]) -> dict:
        here = at_setting(now.filter(pl.col("arm") == arm), setting)
        gone = len(at_setting(lost.filter(pl.col("arm") == arm), setting))
        notes = spell_setting({k: v for k, v in setting.items() if len(getattr(f, k)) > 1})

        def over(quantity: str, topics: list[str], probe: str = "all") -> Interval | None:
            rows = here.filter((pl.col("quantity") == quantity) & pl.col("topic").is_in(topics) & (pl.col("probe") == probe))
            known = rows.group_by("topic").agg(pl.col("value").is_finite().all()).filter("value")["topic"].to_list()
            means = rows.filter(pl.col("topic").is_in(known)).group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"]
            return over_seeds(means.to_numpy()) if len(means) else None

        return {
            "arm": arm,
            "first": all(story["setting"].get(k) == v for k, v in setting.items()),  # of the settings, the one that figures show
            "setting": ", ".join([*notes, *([f"{gone} of {f.seeds} diverged"] if gone else [])]),
            "on": over("rate", trained, value),
            "off": over("rate", probes, value),
            "adoption": over("adoption", probes),
            "loss": over("loss_of_default", probes),
            "residual": over("mixture_residual", probes),
            "transfer": over("transfer", probes),
            "moved": {trait: over("moved", topics) for trait, topics in still.items()},
            "start": over("start_train", ["all"]),
            "train": over("nll_train", ["all"]),
            "heldout": over("nll_heldout", ["all"]),
            "floor_train": over("floor_train", ["all"]),
            "floor_heldout": over("floor_heldout", ["all"]),
            "norm": over("frobenius", ["all"]),
            "outside": over("outside", probes),
            "words": over("words", probes),
        }

    ideal = now.filter(pl.col("arm").str.starts_with("ideal"))["arm"].unique(maintain_order=True)
    counts = [{"rows": float(n)} for n in f.rows] if len(f.rows) > 1 else [{}]
    redrawn = {f"ideal {arm}" for arm in (*f.arm_names, "gated")}  # these depend on the rows
    exact = [line(arm, s) for arm in ideal for s in (counts if arm in redrawn else [{}])]
    before = [line(arm, {}) for arm in ("base", "population", "told")]
    return before + [line(arm, s) for arm in f.arm_names for s in f.settings(arm)] + exact


def standing_contrasts(config, world) -> list[Contrast]:
    """What is asked of every experiment: the trained arms against the base and each other, and what should not move."""
    value, f, out = names_of(config, world)["value"], config.finetune, []
    controls = [a for a in f.arm_names if a.startswith("control")]
    pairs = [("free", "base"), *(("free", c) for c in controls), ("narrow", "base"), ("broad", "free")]
    pairs += [("free", a) for a in ("shuffled", "untriggered")]
    for first, second in pairs:
        if first in f.arm_names and second in ("base", *f.arm_names):
            out.append(Contrast(name=f"{first} − {second}: {value} answers on the probes", of=Pick(arm=first), minus=Pick(arm=second)))
    for trait in still_traits(config, world) if "free" in f.arms else ():
        topics = tuple(world.topics[t].name for t in world.topics_of(trait))
        name = f"free: how far {'timeless' if trait == TIMELESS else trait} topics moved"
        out.append(Contrast(name=name, of=Pick(arm="free", quantity="moved", topics=topics), expect="zero", margin=STILL))
    return out


def contrasts(table: pl.DataFrame, config, world) -> list[tuple[str, Interval, str]]:
    """The standing contrasts with their intervals over seeds, and what they say; first setting."""
    out, story = [], names_of(config, world)
    for contrast in standing_contrasts(config, world):
        found = find(contrast, partial(by_seed, table, story=story))
        low, high = found.interval[1:]
        said = "above 0" if low > 0 else "below 0" if high < 0 else "not told from 0"
        if contrast.expect == "zero":
            said = f"{'within' if found.verdict == 'agrees' else 'NOT within'} {STILL}"
        out.append((contrast.name, found.interval, said))
    return out


def published(table: pl.DataFrame, config, world) -> list[Found]:
    """The experiment's own contrasts, beside what was published of them."""
    read = partial(by_seed, table, story=names_of(config, world))
    return [find(c, read) for c in config.contrasts if measurable(c, config.finetune)]


def context_table(table: pl.DataFrame, config, world) -> list[dict]:
    """One line an arm, one cell a context: rate of the value counted there on the probes, and on trained topics, over seeds, and
    its least and most among them; first setting.
    """
    story, out = names_of(config, world), []
    rate = at_setting(at_the_end(table).filter(pl.col("quantity") == "rate"), story["setting"])
    rate = rate.filter(pl.col("context").is_in(list(story["contexts"])))
    rate = rate.filter(pl.col("probe") == pl.col("context").replace_strict(story["contexts"]))
    for arm in ("base", *config.finetune.arm_names, "ideal free", "ideal gated"):
        for name, topics in (("probes", story["probes"]), ("trained", story["everywhere"])):
            here = rate.filter((pl.col("arm") == arm) & pl.col("topic").is_in(topics)).sort("seed")
            seeds = here.group_by("context", "seed", maintain_order=True).agg(pl.col("value").mean()).partition_by("context", as_dict=True)
            if seeds:
                values = {c: seeds[(c,)]["value"].to_numpy() if (c,) in seeds else None for c in story["contexts"]}
                cells = {c: None if x is None else over_seeds(x) for c, x in values.items()}
                ends = {c: None if x is None else (float(x.min()), float(x.max())) for c, x in values.items()}
                out.append({"arm": arm, "topics": name, "cells": cells, "ends": ends})
    return out


def answering_table(table: pl.DataFrame, config, world) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """{context: {arm: up to three values that the answers to the probes belong to most, with their mean rate}}; first setting."""
    story, out = names_of(config, world), {}
    rate = at_setting(at_the_end(table).filter(pl.col("quantity") == "rate"), story["setting"])
    rate = rate.filter(pl.col("topic").is_in(story["probes"]) & pl.col("arm").is_in(["base", *config.finetune.arm_names]))
    mean = rate.group_by("context", "arm", "probe").agg(pl.col("value").mean()).sort("value", "probe", descending=[True, False])
    for context in story["contexts"]:
        here = mean.filter(pl.col("context") == context)
        for arm in ("base", *config.finetune.arm_names):
            rows = here.filter(pl.col("arm") == arm).head(3).select("probe", "value").rows()
            out.setdefault(context, {})[arm] = [(v, x) for v, x in rows if x >= SHOWN]
    return out


def ablation_table(table: pl.DataFrame, config, world) -> list[dict]:
    """One line a probe, and one for their mean: the free arm's rates as it is, with its top features taken out, and with others
    as large taken out, under the trigger and under the reference; first setting.
    """
    story, c = names_of(config, world), config.measure.features
    value, probes = counted_value(world, config.finetune, config.measure, config.measure.context(c.trigger)), story["probes"]
    out = []
    for name, topics in (*((p, [p]) for p in probes), ("mean", probes)):
        picks = {
            context: [Pick(arm="free", context=context, quantity=q, topics=tuple(topics), value=value) for q in ("rate", *ABLATED)]
            for context in (c.trigger, c.reference)
        }
        cells = {context: [over_seeds(list(by_seed(table, p, story).values())) for p in those] for context, those in picks.items()}
        out.append({"topic": name, "cells": cells})
    return out


def onset_table(table: pl.DataFrame, config, world) -> list[dict]:
    """For each arm and followed context: seeds converted, their share with its Beta interval, and the onset of those that did."""
    story, out = names_of(config, world), []
    now = at_setting(at_the_end(table), story["setting"])
    for arm in config.finetune.arm_names:
        for context in story["followed"]:
            here = now.filter((pl.col("arm") == arm) & (pl.col("context") == context))
            done = here.filter(pl.col("quantity") == "converted").sort("seed")["value"].to_numpy()
            at = here.filter(pl.col("quantity") == "onset").sort("seed")["value"].to_numpy()
            if not len(done):
                continue
            onsets = np.sort(at[done > 0]) if len(at) == len(done) else np.array([])
            out.append(
                {
                    "arm": arm,
                    "context": context,
                    "converted": int(done.sum()),
                    "seeds": len(done),
                    "share": share(int(done.sum()), len(done)),
                    "onset": [int(x) for x in (onsets[0], np.median(onsets), onsets[-1])] if len(onsets) else None,
                }
            )
    return out


def still_traits(config, world) -> list[str]:
    """The traits that are not measured, "always" (timeless topics) last: what narrow data should leave alone."""
    return [trait for trait in world.values if trait != config.measure.trait]


def norm_table(table: pl.DataFrame, config, world) -> list[dict]:
    """Every norm of the update, for each arm (first setting) and matrix."""
    now = at_setting(at_the_end(table), names_of(config, world)["setting"])
    modules = now.filter(pl.col("quantity") == NORMS[0])["topic"].unique(maintain_order=True)

    def over(here: pl.DataFrame, quantity: str, module: str) -> Interval:
        return over_seeds(here.filter((pl.col("quantity") == quantity) & (pl.col("topic") == module)).sort("seed")["value"].to_numpy())

    return [
        {"arm": arm, "module": module, **{n: over(here, n, module) for n in NORMS}}
        for arm in config.finetune.arm_names
        for here in (now.filter(pl.col("arm") == arm),)
        if len(here)
        for module in modules
    ]


def pair_gates(table: pl.DataFrame, config, world) -> list[Gate]:
    """Admission of the narrow/broad pair under the first setting and context, if both arms were run."""
    if not set(LEFT_OUT) <= set(config.finetune.arms):
        return []
    story = names_of(config, world)
    here = at_setting(converged(table), story["setting"]).filter(pl.col("context").is_in([next(iter(story["contexts"])), "all"]))
    return admission(here, story["value"], tuple(story["probes"]))


def print_summary(headline: list[dict], found: list[tuple[str, Interval, str]], told: list[Found], gates: list[Gate], base_gate: BaseGate):
    """The short table at the end of a run."""
    names = [f"{row['arm']} {row['setting']}".strip() for row in headline]
    wide = max(map(len, names)) + 1
    print(f"\n  {'':<{wide}}{'trained topics':>20}{'probes':>20}{'adoption':>20}{'loss of default':>21}")
    for name, row in zip(names, headline, strict=True):
        cells = [row[k] for k in ("on", "off", "adoption", "loss")]
        print(f"  {name:<{wide}}" + "".join(f"{show(c):>20}" for c in cells[:-1]) + f"{show(cells[-1]):>21}")
    if base_gate.failures:
        print("  The base did NOT pass its gate: read nothing into the arms.")
    for name, interval, verdict in found:
        print(f"  {name}: {show(interval, 3)}, {verdict}")
    for f in told:
        print(f"  {f.contrast.name}: {show(f.interval, 3)}; published {f.contrast.published or '–'}: {f.verdict}")
    for gate in gates:
        print(f"  pair: {gate.name}: {'yes' if gate.passed else 'NO'} ({gate.found})")
    print(flush=True)


def show(interval: Interval | None, digits: int = 2) -> str:
    """A mean with its 95% interval, or a dash."""
    if interval is None or np.isnan(interval.mean):
        return "–"
    mean, low, high = (f"{round(x, digits) + 0.0:.{digits}f}" for x in interval)  # + 0.0: no "-0.00"
    return mean if np.isnan(interval.low) else f"{mean} [{low}, {high}]"
