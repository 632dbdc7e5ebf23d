"""Efficiency of an ensemble's solutions: along their own rays, and along the frontier that training finds under a bound.

Both give curves of the narrow loss against the norm, one a seed, and the behaviour at every point. `least_norm_rows` reads off them
what it takes to come down from the base's loss by a share of what the same seed's free solution, as trained, comes down.
"""

from typing import Any, get_args

import numpy as np
import polars as pl

from bayesgen.cost.subject import PROBES, Subject, likelihood_rows, scaled_all, solution_rows
from bayesgen.estimate.efficiency import least_norm
from bayesgen.learn.plan import FinetuneConfig
from bayesgen.measure.likelihood import nll
from bayesgen.measure.norms import norms
from bayesgen.measure.rows import Row, to_table
from bayesgen.measure.settings import COMPARED
from bayesgen.model.lora import Norm

SHARES = (0.5, 0.75, 0.9)  # of the way down from the base's loss to the free solution's
RAY, FRONTIER = "ray", "frontier"
FINE = np.arange(21) / 20  # scales at which the likelihood along a ray is known: straight lines between few points decided what is least


def single(f: FinetuneConfig) -> dict[str, Any]:
    """A configuration's words with one value for every setting, one snapshot, and the arms that are compared (no settings of others)."""
    of_others = {"gate": None, "benign": FinetuneConfig.model_fields["benign"].default}
    return {**f.model_dump(), **f.first_setting, **of_others, "rows": max(f.rows), "arms": COMPARED, "snapshots": 1}


def free_norm(s: Subject, norm: Norm) -> float:
    """Mean norm of the free solutions."""
    free = np.array([m.arm == "free" for m in s.members])
    return float(np.asarray(norms(s.lora_M)["all"][norm])[free].mean())


def free_losses(s: Subject) -> dict[int, float]:
    """The narrow loss of every seed's free solution."""
    free = s.take([i for i, m in enumerate(s.members) if m.arm == "free"])
    return dict(zip([m.seed for m in free.members], np.asarray(nll(s.model, s.params, free.lora_M, free.batch_M), float), strict=True))


def frontier_config(f: FinetuneConfig, norm: Norm, bounds: tuple[float, ...], seeds: int) -> FinetuneConfig:
    """The three arms under every bound; bounds of three digits, so that they can be read."""
    rounded = tuple(float(f"{b:.3g}") for b in bounds)
    return FinetuneConfig(**{**single(f), "seeds": seeds, "norm": norm, "norm_bound": rounded})


def ray_rows(s: Subject, scales: tuple[float, ...]) -> list[Row]:
    """`solution_rows` of every update times every scale (0 is the base), `likelihood_rows` of it times every scale of `FINE`, and the least
    norms along the rays.
    """
    rows = [row for c in scales for row in solution_rows(s, scaled_all(s.lora_M, c), scale=c)]
    between = [c for c in FINE.tolist() if c not in scales]
    rows += [row for c in between for row in likelihood_rows(s, scaled_all(s.lora_M, c), scale=c)]
    free = free_losses(s)
    return rows + [row for norm in get_args(Norm) for row in least_norm_rows(s, rows, RAY, norm, free)]


def frontier_rows(s: Subject, norm: Norm, free: dict[int, float]) -> list[Row]:
    """`solution_rows` of trainings under bounds on a norm, and the least norms along the frontier."""
    rows = solution_rows(s)
    return rows + least_norm_rows(s, rows, FRONTIER, norm, free)


def least_norm_rows(s: Subject, rows: list[Row], kind: str, norm: Norm, free: dict[int, float]) -> list[Row]:
    """`least_norm` of every arm and seed at every share of the way from the base's loss to that of the seed's `free` solution, read off
    `solution_rows`; inf where it is never reached. And `least_norm_rate`, the rate on the probes there (by straight lines between the
    points where it was asked): how broad the cheapest solution of that likelihood is.
    """
    table, point = to_table(rows), ["arm", "seed", "scale", "norm_bound"]

    def known(quantity: str, of: pl.DataFrame = table) -> pl.DataFrame:
        return of.filter(pl.col("quantity") == quantity).select(*point, **{quantity: "value"})

    points = known(norm).join(known("nll_train"), on=point, nulls_equal=True, validate="1:1")
    behaviour = known("rate", table.filter(pl.col("topic") == PROBES))
    points = points.join(behaviour, on=point, how="left", nulls_equal=True, validate="1:1").sort(norm)
    start = dict(
        zip([m.seed for m in s.members], np.asarray(nll(s.model, s.params, scaled_all(s.lora_M, 0.0), s.batch_M), float), strict=True)
    )
    curves = {}
    for (arm, seed), curve in points.group_by("arm", "seed", maintain_order=True):
        x, y, rate = (curve[q].to_numpy() for q in (norm, "nll_train", "rate"))
        curves[arm, seed] = (x, y, rate) if x[0] == 0 else (np.insert(x, 0, 0.0), np.insert(y, 0, start[seed]), np.insert(rate, 0, rate[0]))
    out = []
    for (arm, seed), (x, y, rate) in curves.items():
        if seed not in free:
            continue
        fall, asked = start[seed] - free[seed], np.isfinite(rate)
        for share in SHARES:
            rho = least_norm(x, y, start[seed] - share * fall)
            there = float(np.interp(rho, x[asked], rate[asked])) if np.isfinite(rho) else float("nan")
            for quantity, value in (("least_norm", rho), ("least_norm_rate", there)):
                out.append(s.row(arm=arm, seed=seed, quantity=quantity, value=value, context=kind, probe=f"{share:g}", norm=norm))
    return out
