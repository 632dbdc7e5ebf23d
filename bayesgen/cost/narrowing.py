"""Ways to keep a solution narrow, and what each leaves of the likelihood: a KL penalty by its weight, ordinary rows by their share of a
batch, a gating token where the experiment has one (asked without it, like the others). All take the experiment's own steps, batch and
optimiser.
"""

from bayesgen.cost.efficiency import single
from bayesgen.cost.subject import Subject, scaled_all, solution_rows
from bayesgen.learn.plan import FinetuneConfig
from bayesgen.measure.rows import Row

SCALED = (1.0, 1.5)  # a solution that only looks narrow spreads when its update is scaled


def narrowing_config(f: FinetuneConfig, weights: tuple[float, ...], seeds: int) -> FinetuneConfig:
    """The free arm, the narrow one at every weight, and the diluted ones at a quarter, half and three quarters of a batch."""
    shares = tuple(rows / f.batch for rows in sorted({f.batch * quarters // 4 for quarters in (1, 2, 3)} - {0}))
    gate = f.gate if "token" in f.arms else None
    arms = ("free", "narrow", *(("mixed",) if shares else ()), *(("token",) if shares and gate else ()))
    some = {"benign": shares} if shares else {}
    return FinetuneConfig(**{**single(f), **some, "gate": gate, "arms": arms, "kl_weight": weights, "seeds": seeds})


def narrowing_rows(s: Subject) -> list[Row]:
    """`solution_rows` of every way, as trained and scaled."""
    return [row for c in SCALED for row in solution_rows(s, scaled_all(s.lora_M, c), scale=c)]
