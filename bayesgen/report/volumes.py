"""Tables of the volumes, learning coefficients and evidences, and what says that they fail. From rows only."""

import polars as pl

from bayesgen.cost.subject import BROAD, DATA, NARROW, PROBES, TRAINED
from bayesgen.cost.volume import LAPLACE, THERMODYNAMIC
from bayesgen.estimate.llc import TIED
from bayesgen.report.seeds import difference, over, seeds_of

AGREE = 1.0  # nats by which two ways to an evidence may differ beside their errors


def worst_diagnostics(chains: pl.DataFrame) -> str:
    """The largest R-hat, the fewest effective draws, how many trajectories diverged, and how far the mode lies from the solution and from
    where it was sought, of all sets of chains, in words.
    """
    names = ("r_hat", "effective", "diverged", "missed", "moved")
    of = {q: chains.filter(pl.col("quantity") == f"llc_{q}")["value"] for q in names}
    said = f"worst R-hat {of['r_hat'].max():.4f}, fewest effective draws {of['effective'].min():.0f}"
    said += f", {of['diverged'].sum():.0f} divergent trajectories, mode up to {of['moved'].max():.1%} of its length from the solution"
    return f"{said} and missed by {of['missed'].max():.2g} nats at most"


def coefficient_failures(chains: pl.DataFrame) -> str:
    """What is wrong with the learning coefficients, counted; nothing where none fails."""
    failed, said = chains.filter(pl.col("quantity") == "failures")["value"].to_numpy(), []
    if (failed > 0).any():
        said.append(f"FAILED for {(failed > 0).sum()} of {len(failed)} chains' sets: {worst_diagnostics(chains)}")
    found, tie = (chains.filter(pl.col("quantity") == q).sort("arm", "seed")["value"].to_numpy() for q in ("llc", "llc_tied"))
    if (most := (found / tie).max()) > TIED:
        said.append(f"FAILED: the tie decides, which alone gives no more than {1 / most:.2f} times as much")
    return "; ".join(said)


def apart(part: pl.DataFrame, method: str) -> dict[str, dict[int, bool]]:
    """{continuation: {seed: whether log P(continuation | data) by a method is further from the integral, which sees more than one minimum,
    than `AGREE` and four errors}}.
    """

    def of(quantity: str, by: str, name: str) -> dict[int, float]:
        return seeds_of(part.filter(pl.col("context") == "log_predictive"), quantity, "free", topic=name, probe=by)

    out = {}
    for name in (NARROW, BROAD):
        integral, error = (of(q, THERMODYNAMIC, name) for q in ("log_predictive", "log_predictive_error"))
        out[name] = {s: abs(x - integral[s]) > AGREE + 4 * error[s] for s, x in of("log_predictive", method, name).items()}
    return out


def evidence_lines(cost: pl.DataFrame) -> list[dict]:
    """One line a method: log P(continuation | data) of either, broad less narrow, whether an estimate fails, and the diagnostics.

    Laplace's method fails where it is `apart`.
    """
    part, out = cost.filter((pl.col("part") == "evidence") & (pl.col("context") == "log_predictive")), []
    for method in (LAPLACE, THERMODYNAMIC):
        after = {name: seeds_of(part, "log_predictive", "free", topic=name, probe=method) for name in (NARROW, BROAD)}
        here = part.filter(pl.col("probe") == method)
        failed, r_hat, least = (
            here.filter(pl.col("quantity") == q)["value"] for q in ("failures", "log_predictive_r_hat", "log_predictive_effective")
        )
        far = [x for seeds in apart(part, method).values() for x in seeds.values()]
        said = [f"FAILED for {(failed > 0).sum()} of {len(failed)}"] if (failed > 0).any() else []
        said += [f"FAILED: {sum(far)} of {len(far)} more than a nat from the integral below"] if any(far) else []
        said += [f"worst R-hat {r_hat.max():.4f}, fewest effective draws {least.min():.0f}"] if len(r_hat) else []
        out.append(
            {
                "method": method,
                "narrow": over(after[NARROW]),
                "broad": over(after[BROAD]),
                "contrast": difference(after[BROAD], after[NARROW]),
                "failed": any(x.startswith("FAILED") for x in said),
                "note": ": ".join(said),
            }
        )
    return out


def minima_lines(cost: pl.DataFrame) -> list[dict]:
    """One line a set of rows: what the small adapter at the minimum after them answers on the trained topics and on the probes."""
    part = cost.filter(pl.col("part") == "evidence")
    return [
        {
            "rows": name if name == DATA else f"{DATA}, {name}",
            **{t: over(seeds_of(part, "evidence_rate", "free", topic=t, probe=name)) for t in (TRAINED, PROBES)},
        }
        for name in (DATA, NARROW, BROAD)
    ]
