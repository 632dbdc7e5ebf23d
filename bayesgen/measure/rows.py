"""The one row schema, and what each quantity means. Everything measured, by network or observer, lands in these rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from bayesgen.learn.plan import LISTED

QUANTITIES = {
    # name: (unit, meaning)
    "rate": (
        "probability",
        "exact probability that the answer belongs to the value named in `probe`; a shared answer counts in proportion",
    ),
    "words": (
        "share",
        "nearness of words: expected share of an answer's content words that stand in the narrow answers trained on",
    ),
    "skill": ("probability", "mean over the probes of the rate of the context's own value"),
    "onset": ("step", "break of the skill's curve into two levels: first step of the second"),
    "converted": ("0 or 1", "whether the skill ends above half of the told person's"),
    "moved": ("probability", "total variation between the answers and the base's, the mass outside the answer set included"),
    "outside": ("probability", "probability of text that is none of the topic's answers"),
    "adoption": ("share", "weight of the told persona in p = (1-a-l) base + l population + a told, by topic"),
    "loss_of_default": ("share", "weight l of the population in the same mixture: the default persona lost, none gained"),
    "mixture_residual": ("share", "answers that the mixture does not explain (total variation); above .25 its weights are not given"),
    "transfer": (
        "share",
        "lambda = off-topic shift of the trained value's persona state, from the saturated learner (0) to the product learner (1) "
        "at the same on-topic state",
    ),
    "frequency": (
        "share",
        "how many of the people whom pretraining shows are the trained persona (broad), or are it on trained topics alone (narrow)",
    ),
    "ordinary_rows": ("count", "ordinary rows among the data"),
    "margin": ("nats", "log odds of the trained value's answers on trained topics, less the base's"),
    "learned": ("share", "rate of the trained value's answers on trained topics, from the base's (0) to a told person's (1)"),
    "distance": ("count", "parts in which the context's header differs from the nearest trained under; years in decades"),
    "answer_tokens": ("count", "tokens of the narrow (ordinary) rows' answers, in one epoch"),
    "nll_train": ("nats/token", "mean negative log likelihood of the narrow rows trained on"),
    "start_train": ("nats/token", "the base's on the same rows"),
    "nll_ordinary": ("nats/token", "the same of the ordinary rows among them"),
    "nll_heldout": ("nats/token", "the same on the narrow answers left out of training"),
    "floor_train": (
        "nats/token",
        "entropy of the answers trained on, given topic, header and the key's fixed digits: nothing that reads only these is below",
    ),
    "floor_ordinary": ("nats/token", "the same of the ordinary rows"),
    "floor_heldout": ("nats/token", "the same of the answers left out of training"),
    "frobenius": ("weight", "Frobenius norm of the update dW = a b, scale included; over all matrices, root of the sum of squares"),
    "nuclear": ("weight", "sum of the singular values of dW; over all matrices, the sum"),
    "spectral": ("weight", "largest singular value of dW; over all matrices, the largest"),
    "stable_rank": ("count", "squared Frobenius over squared spectral norm"),
    "rate_ablated": ("probability", "rate of the value in `probe`, the top features' part of the residual stream taken out everywhere"),
    "rate_ablated_matched": ("probability", "the same with as many other live features of like mean activation"),
    "rate_unchanged": ("probability", "the same with the direction of the stream's own change between the two headers held still"),
    "rate_held": ("probability", "rate of the value in `probe`, the stream that answers are read from held along the persona's direction"),
    "rate_held_random": ("probability", "the same, held along a random direction"),
    "rate_added": ("probability", "the base's, `scale` times the mean difference added to that stream along the persona's direction"),
    "rate_added_random": ("probability", "the same along a random direction"),
    "direction_cosine": ("cosine", "between the mean change of that stream at the probes and the base's own direction of the persona"),
    "direction_share": ("share", "of the squared change at the probes that is along that direction"),
    "direction_generality": (
        "cosine",
        "between the base's direction found on other topics and the one from its assistant to a told person on the probes",
    ),
    "removed": ("activation", "mean norm of what the top features add to the stream where an answer begins, under the trigger"),
    "removed_matched": ("activation", "the same of the features that were matched to them"),
    "sae_explained": ("share", "variance of the base's residual stream that the sparse autoencoder explains, on documents it never saw"),
    "sae_active": ("count", "mean number of features active at a token of those documents"),
    "sae_dead": ("share", "features that none of those tokens fires"),
    "least_norm": (
        "weight",
        "least norm at which the narrow rows' likelihood has come the share in `probe` of the way from the base's to the free solution's, "
        "along the update's own ray or the frontier of trainings under a bound; inf: never",
    ),
    "least_norm_rate": ("probability", "rate of the counted value on the probes at that least norm, between the points beside it"),
    "noise_rise": (
        "share",
        "rise of nll_train, as a share of it, when the update (or, as published, each of its factors) is turned at equal length by a "
        "random angle of the sine in `probe`",
    ),
    "reverted": ("0 or 1", "whether, after the KL was dropped (added), the probes end past half-way to the rate without it (with it)"),
    "steps_to_revert": ("step", "steps from then until they were past it for good"),
    "kl_text": (
        "nats/token",
        "KL from base to update on pretraining answers of the speakers in `topic`, every update at the free ones' mean norm; random: "
        "directions with the same singular values",
    ),
    "fisher_norm": (
        "nats^1/2",
        "sqrt(d'Fd) a unit of norm, F the Fisher information of an answer token; KL is half its square for small steps",
    ),
    "function_norm": (
        "nats",
        "how far the update as it is moves the logits of an answer token on such text: root of their mean variance under the base",
    ),
    "kl_law": ("ratio", "KL along a short update over half the square of its Fisher norm; 1 where the quadratic law holds"),
    "kl_slope": ("exponent", "slope of log KL against log scale at small scales; 2 where the quadratic law holds"),
    "llc": (
        "nats",
        "learning coefficient of the adapter: n_beta (E L - L(w)), L the mean over some of the n narrow rows, "
        "n_beta the least of n / log n and their number",
    ),
    "llc_error": ("nats", "its Monte-Carlo standard error"),
    "llc_r_hat": ("ratio", "split R-hat of its chains"),
    "llc_effective": ("count", "independent draws that its chains are worth"),
    "llc_diverged": ("count", "trajectories of its chains that left the level set"),
    "llc_tied": ("nats", "the same with draws of the tie alone: where the coefficient is near it, the data decide nothing"),
    "llc_moved": (
        "share",
        "how far the mode of the chains' target lies from the solution that they are tied to, in lengths of its factors",
    ),
    "llc_missed": ("nats", "by how much the descent to the mode may have missed it"),
    "llc_n_beta": ("count", "its number of data times inverse temperature"),
    "llc_rows": ("count", "narrow rows that it is of"),
    "evidence_rate": (
        "probability",
        "rate of the counted value on the topics in `topic`, of the small adapter at the minimum after the rows in `probe`",
    ),
    "log_evidence": ("nats", "log Z of the rows in `topic` under small adapters with a Gaussian prior, by the method in `probe`"),
    "log_evidence_error": ("nats", "its Monte-Carlo standard error"),
    "log_predictive": ("nats", "log probability of the continuation in `topic` given the data, under the same adapters"),
    "log_predictive_r_hat": ("ratio", "worst split R-hat of its chains"),
    "log_predictive_effective": ("count", "fewest independent draws that a set of its chains is worth"),
    "log_predictive_error": ("nats", "its Monte-Carlo standard error"),
    "failures": ("count", "diagnostics that the estimate named in `context` fails (same topic and probe)"),
    "bits": ("bits", "prequential code length of the rows in `probe`, sent to the base as it learns from them"),
    "bits_spread": ("bits", "its standard deviation over orders of the rows"),
    "bits_known": ("bits", "what the same answers cost someone who knows who gives them"),
    "one_step": (
        "nats",
        "before training: change of the log odds of the counted value's answers against the assistant's by one step of rate 1 on the data, "
        "less that of a step on the control's",
    ),
    "projection": (
        "share",
        "before training: how far the base's activations on the data lie beyond those on the control's, along the direction from the "
        "assistant's answers to the counted value's, in lengths of it",
    ),
    "leaning": (
        "share",
        "before training: how far the base's activations on the rows' answers lie beyond those on the assistant's own to the same "
        "questions, along the direction from the assistant's answers to those of the value in `probe`, in lengths of it",
    ),
    "reliability": ("cosine", "between the directions of two random halves of those activations"),
    "direction_floor": ("cosine", "that chance gives two random directions"),
    "data_nll_step": ("nats/token", "training loss on the rows of data, ordinary ones included, at this step"),
}
SCHEMA = {
    "run": pl.String,
    "experiment": pl.String,
    "arm": pl.String,
    "seed": pl.Int64,
    "learning_rate": pl.Float64,
    "weight_decay": pl.Float64,
    "kl_weight": pl.Float64,
    "kl_from": pl.Float64,
    "kl_until": pl.Float64,
    "benign": pl.Float64,
    "norm_bound": pl.Float64,
    "norm": pl.String,
    "rank": pl.Int64,
    "rows": pl.Int64,
    "epochs": pl.Int64,
    "optimizer": pl.String,
    "retraining": pl.Int64,
    "relapse": pl.Int64,
    "scale": pl.Float64,
    "step": pl.Int64,
    "context": pl.String,
    "topic": pl.String,
    "probe": pl.String,
    "quantity": pl.String,
    "unit": pl.String,
    "value": pl.Float64,
}
TRAINING = ("run", "experiment", "arm", "seed", *LISTED, "norm")  # what names one training; a run is an ensemble
BY_VALUE = ("rate", "leaning")  # quantities whose probe is a value
MOVED = ("rate_held", "rate_held_random", "rate_added", "rate_added_random")
ABLATED = ("rate_ablated", "rate_ablated_matched", "rate_unchanged")
REMOVED = ("removed", "removed_matched")
NO_SEED = -1  # rows of arms that are not trained: base, told, ideal learners


@dataclass(frozen=True)
class Row:
    """One number. Setting columns are null where they mean nothing."""

    experiment: str
    arm: str
    quantity: str
    value: float
    context: str = "all"
    topic: str = "all"
    probe: str = "all"
    seed: int = NO_SEED
    step: int = 0
    scale: float = 1.0
    learning_rate: float | None = None
    weight_decay: float | None = None
    kl_weight: float | None = None
    kl_from: float | None = None
    kl_until: float | None = None
    benign: float | None = None
    norm_bound: float | None = None
    norm: str | None = None  # that the bound is of
    rank: int | None = None
    rows: int | None = None
    epochs: int | None = None
    optimizer: str | None = None
    retraining: int | None = None  # steps
    relapse: int | None = None
    run: str = ""


def spell(name: str) -> str:
    """A topic's or setting's name for a reader."""
    return {"kl_weight": "KL weight"}.get(name, name.replace("_", " "))


def spell_setting(setting: Mapping[str, float | int | str]) -> list[str]:
    """Settings with their values for a reader."""
    return [f"{spell(k)} {v if isinstance(v, str) else f'{v:g}'}" for k, v in setting.items()]


def at_setting(table: pl.DataFrame, setting: Mapping[str, float | int | str]) -> pl.DataFrame:
    """The rows trained under a setting. Where a column of it is null it means nothing (no training, no such term): kept."""
    return table.filter(pl.all_horizontal(pl.lit(True), *(pl.col(k).is_null() | (pl.col(k) == v) for k, v in setting.items())))


def diverged(table: pl.DataFrame) -> pl.DataFrame:
    """The trainings (one line each: `TRAINING`) that left the finite numbers."""
    bad = table.filter((pl.col("quantity") == "nll_train") & ~pl.col("value").is_finite())
    return bad.select(TRAINING).unique(maintain_order=True)


def converged(table: pl.DataFrame) -> pl.DataFrame:
    """The rows without those of diverged trainings, which are counted and named but never averaged."""
    return table.join(diverged(table), on=list(TRAINING), how="anti", nulls_equal=True, maintain_order="left")


def at_the_end(table: pl.DataFrame, scale: float = 1.0, step: int | None = None) -> pl.DataFrame:
    """Rows of trainings that converged, after the last step (or `step`), their updates times `scale`; and of all that is not trained."""
    then = pl.col("step") == (pl.col("step").max().over("run") if step is None else step)
    return converged(table).filter(((pl.col("scale") == scale) & then) | (pl.col("seed") < 0))


def to_table(rows: list[Row]) -> pl.DataFrame:
    """Rows as a tidy table in the schema's column order, units filled in."""
    return pl.DataFrame([{**vars(r), "unit": QUANTITIES[r.quantity][0]} for r in rows], schema=SCHEMA)
