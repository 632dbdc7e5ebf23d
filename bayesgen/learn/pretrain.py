"""Pretraining: a base that has read what all personas wrote. Loss falls on answer tokens only."""

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random
from jaxtyping import Array, Float
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen.corpus.documents import Batch, DocumentSource, stack_tables
from bayesgen.learn.devices import training_type
from bayesgen.learn.muon import muon
from bayesgen.model.transformer import Transformer, forward


class FirstShown(BaseModel):
    """How often whom the documents of the first steps show; those of all later ones follow the world. So what is known of somebody, and how
    often he is met in the end, vary apart; but by one schedule of rates the last sixth hardly changes what was learned before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: int = Field(ge=1)
    frequencies: dict[str, dict[str, float]]  # of some traits; whom it leaves out is not shown
    # Learning rates start again after them, up to their peak, as if pretraining had ended there (the optimiser's memory is kept).
    restart: Literal[True] | None = None  # none, and not false: a base without it is called as ever


class PretrainConfig(BaseModel):
    """Muon on matrices and Adam on the rest, `learning_rates` by step. `batch` documents of `length` tokens a step."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seed: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    length: int = Field(ge=16)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)  # of matrices
    adam_learning_rate: float = Field(gt=0, allow_inf_nan=False)  # of embeddings, positions, biases and norms
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0, allow_inf_nan=False)
    clip: float = Field(gt=0, allow_inf_nan=False)
    checkpoint_every: int = Field(ge=1)
    first: FirstShown | None = None

    @model_validator(mode="after")
    def _first_ends(self):
        if self.first is not None and self.first.steps >= self.steps:
            raise ValueError(f"first.steps is {self.first.steps}; expected fewer than the {self.steps} steps there are")
        return self


class PretrainState(NamedTuple):
    """Parameters and the optimiser's memory of them."""

    params: Any
    opt: Any


def answer_nll(logits_BxKxV: Float[Array, "B K V"], batch: Batch) -> Float[Array, ""]:
    """Mean negative log likelihood of the answer tokens (nats/token)."""
    return (token_nll(logits_BxKxV, batch) * batch.weight).sum() / batch.weight.sum()


def token_nll(logits_BxKxV: Float[Array, "B K V"], batch: Batch) -> Float[Array, "B K"]:
    """Negative log likelihood of each target (nats)."""
    hit = jnp.take_along_axis(logits_BxKxV, batch.target[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BxKxV, axis=-1) - hit


def learning_rates(config: PretrainConfig, peak: float) -> optax.Schedule:
    """By step: linear warm-up and a cosine to zero, over all steps; with `first.restart` over the first and over the later ones."""

    def once(steps: int) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0.0, peak, min(config.warmup, steps - 1), steps)

    if config.first is None or not config.first.restart:
        return once(config.steps)
    return optax.join_schedules([once(config.first.steps), once(config.steps - config.first.steps)], [config.first.steps])


def make_optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    """Clip, then Muon on every kernel and AdamW on everything else.

    AdamW alone stays several times longer on the plateau where the personas are not told apart (experiments/LOG.md).
    """

    def kind(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: "muon" if path[-1].key == "kernel" else "adam", params)

    parts: dict[Hashable, optax.GradientTransformation] = {
        "muon": muon(learning_rates(config, config.learning_rate), config.weight_decay),
        "adam": optax.adamw(learning_rates(config, config.adam_learning_rate), b2=0.98, weight_decay=config.weight_decay, nesterov=True),
    }
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.partition(parts, kind))


def pretraining(model: Transformer, source: DocumentSource, config: PretrainConfig):
    """The triple (begin(*fixed), advance(state, step, *fixed), fixed) for `loop.run_steps`. Seeds: one key, split by purpose.

    Other worlds of one `frame`, and other seeds, differ in `fixed` alone and find the compiled program.
    """
    begin, advance = _pretraining(model, source, config)
    return begin, advance, (random.split(random.key(config.seed)), source.tables)


def pretraining_together(model: Transformer, sources: Sequence[DocumentSource], configs: Sequence[PretrainConfig]):
    """The same for several bases in one program, a leading axis N: of worlds with one `frame`, and configs that differ in their seed."""
    begin, advance = _pretraining(model, sources[0], configs[0])
    keys_N, tables_N = jnp.stack([random.split(random.key(c.seed)) for c in configs]), stack_tables(sources)
    return jax.vmap(begin), jax.vmap(advance, (0, None, 0, 0)), (keys_N, tables_N)


def _pretraining(model: Transformer, source: DocumentSource, config: PretrainConfig):
    """(begin(keys, tables), advance(state, step, keys, tables)) of one base."""
    optimizer, model = make_optimizer(config), model.clone(dtype=training_type())

    def loss(params, batch: Batch):
        return answer_nll(forward(model, params, None, batch.tokens, batch.where), batch)

    def begin(keys, tables) -> PretrainState:
        first = source.draw(keys[1], 0, 1, tables=tables)
        params = model.init(keys[0], first.tokens, first.where)["params"]
        return PretrainState(params, optimizer.init(params))

    def advance(state: PretrainState, step, keys, tables):
        if config.first is not None:
            tables = {**tables, "frequency": jnp.where(step < config.first.steps, tables["first"], tables["frequency"])}
        batch = source.draw(keys[1], step, config.batch, tables=tables)
        value, grads = jax.value_and_grad(loss)(state.params, batch)
        updates, opt = optimizer.update(grads, state.opt, state.params)
        return PretrainState(optax.apply_updates(state.params, updates), opt), {"loss": value}

    return begin, advance
