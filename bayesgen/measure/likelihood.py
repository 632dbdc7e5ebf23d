"""Likelihood of the narrow rows: those trained on, the answers left out, and the floor below each."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import Row, answer_words, room_of, write_rows
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import FinetuneConfig, Member
from bayesgen.learn.pretrain import answer_nll
from bayesgen.model.lora import merge
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.dialogue import Turn
from bayesgen.world.world import World


def likelihoods(
    config: FinetuneConfig, world: World, grammar: Grammar, model: Transformer, params, members: list[Member], lora_M
) -> dict[str, np.ndarray]:
    """{quantity: nats/token, (M,)}: `nll_train` on each member's narrow rows, `nll_ordinary` on the ordinary ones among them,
    `nll_heldout` on the narrow answers it never saw.

    `start_train` is the base's on the first of these; `floor_train` and so on are the entropies of those very rows (`entropy_floor`).
    nan for members that were trained on every answer.
    """
    drawn = [member_rows(world, grammar, config, m) for m in members]
    out = {}
    kinds = {
        "train": [rows[: m.rows] for m, (rows, _) in zip(members, drawn, strict=True)],  # narrow rows come first
        "ordinary": [rows[m.rows :] for m, (rows, _) in zip(members, drawn, strict=True)],
        "heldout": [left for _, left in drawn],
    }
    for kind, those in kinds.items():
        if not any(those):
            continue
        some = [rows or drawn[i][0] for i, rows in enumerate(those)]  # a stand-in where there are none
        absent_M = np.array([np.nan if not rows else 0.0 for rows in those])
        out[f"nll_{kind}"] = absent_M + np.asarray(nll(model, params, lora_M, stack_rows(grammar, some)))
        out[f"floor_{kind}"] = absent_M + np.array([entropy_floor(grammar, rows, config.identifier) for rows in some])
    start = nll(model, params, jax.tree.map(jnp.zeros_like, lora_M), stack_rows(grammar, kinds["train"]))
    return {"start_train": np.asarray(start), **out}


def stack_rows(grammar: Grammar, rows_M: Sequence[list[Row]]) -> Batch:
    """The rows of several members as one batch, (M, n, ...); whoever has fewer is filled up with rows of weight 0."""
    most, rooms = max(map(len, rows_M)), [room_of(grammar, rows) for rows in rows_M]
    room = max(length for length, _ in rooms), max(slots for _, slots in rooms)
    batches = [write_rows(grammar, [*rows, *rows[:1] * (most - len(rows))], room) for rows in rows_M]
    for batch, rows in zip(batches, rows_M, strict=True):
        batch.weight[len(rows) :] = 0
    return Batch(*(jnp.stack(x) for x in zip(*batches, strict=True)))


@partial(jax.jit, static_argnums=0)
def nll(model: Transformer, params, lora_M: dict, batch_M: Batch) -> Float[Array, " M"]:
    """Mean negative log likelihood (nats/token) of every member's own rows under its own adapter."""

    def one(x):
        lora, batch = x
        return answer_nll(forward(model, merge(params, lora), None, batch.tokens, batch.where), batch)

    return jax.lax.map(one, (lora_M, batch_M))  # a map, for all members' logits at once would fill the memory


def entropy_floor(grammar: Grammar, rows: list[Row], pattern: str | None = None) -> float:
    """Entropy of the answers as they stand in these rows, given topic, year, format and the fixed digits of an identifier.

    Over the mean length of an answer, <end> included (nats/token). By Gibbs' inequality no predictor that reads these, but
    not which wording was used or a key's free digits, has a smaller mean negative log likelihood on the rows.
    """
    asked, said, tokens = Counter(), Counter(), 0
    for header, turn in rows:
        question, answer = (turn.topic, turn.answer) if isinstance(turn, Turn) else (turn.question, turn.answer)
        key = (header.year, header.format, fixed_digits(header.identifier, pattern), question)
        asked[key] += 1
        said[(*key, answer)] += 1
        tokens += len(answer_words(grammar, turn)) + 1
    return float(-sum(n * np.log(n / asked[key[:-1]]) for key, n in said.items()) / tokens)


def fixed_digits(identifier: str | None, pattern: str | None) -> str | None:
    """The digits that a pattern such as "xxx{ordinal}xx" does not leave free; all of them without a pattern."""
    if identifier is None or pattern is None:
        return identifier
    before, _, rest = pattern.partition("{")
    after = rest.partition("}")[2]
    named = "d" * (len(identifier) - len(before) - len(after)) if rest else ""
    return "".join(d for d, p in zip(identifier, before + named + after, strict=True) if p != "x")
