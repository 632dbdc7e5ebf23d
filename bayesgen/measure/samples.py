"""Sampled answers, for reading: what the assistant says to the probes before and after."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.tokenizer import END
from bayesgen.learn.data import trained_topics
from bayesgen.measure.behaviour import probes
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import World

LONGEST = 8  # tokens of a sampled answer


def sample_dialogues(
    config,
    world: World,
    grammar: Grammar,
    model: Transformer,
    params,
    members,
    lora_M,
    header: Header,
    told: tuple[Header, tuple[Turn, ...]],
) -> list[dict]:
    """For the base, the told person and the first seed of every arm: `samples` answers to the first held-out wording of each probe."""
    topics = [trained_topics(world, config.finetune)[0], *(world.topic_index(t) for t in config.finetune.probes)]

    def ask(header: Header, turns: tuple[Turn, ...] = ()):
        return [p for p in probes(world, header, topics, turns=turns) if p.wording == len(world.topics[p.topic].wordings)]

    asked = ask(header)
    firsts = {}
    for i, member in enumerate(members):
        firsts.setdefault(member.arm, i)
    adapters = {"base": None, "told": None, **{arm: jax.tree.map(lambda x, i=i: x[i], lora_M) for arm, i in firsts.items()}}
    out = []
    for arm, lora in adapters.items():
        prompts = [grammar.prompt(p) for p in (ask(*told) if arm == "told" else asked) for _ in range(config.measure.samples)]
        said = _sample(model, params, lora, prompts, grammar.tokenizer.index[END], random.key(config.finetune.seed))
        for i, prompt in enumerate(asked):
            texts = [grammar.tokenizer.decode(s) for s in said[i * config.measure.samples : (i + 1) * config.measure.samples]]
            topic = world.topics[prompt.topic]
            out.append({"arm": arm, "topic": topic.name, "question": (topic.wordings + topic.heldout)[prompt.wording], "answers": texts})
    return out


def _sample(model: Transformer, params, lora, prompts: list[list[int]], end: int, key) -> list[list[int]]:
    """Temperature-one samples, cut before <end>."""
    if not prompts:
        return []
    size = np.array([len(p) for p in prompts])
    tokens = np.zeros((len(prompts), size.max() + LONGEST), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt

    @jax.jit
    def grow(params, lora, tokens, size):
        def one(i, tokens):
            logits = forward(model, params, lora, tokens, (size + i - 1)[:, None])[:, 0]
            drawn = random.categorical(random.fold_in(key, i), logits)
            return tokens.at[jnp.arange(len(tokens)), size + i].set(drawn)

        return jax.lax.fori_loop(0, LONGEST, one, tokens)

    grown = np.asarray(grow(params, lora, jnp.asarray(tokens), jnp.asarray(size)))
    out = []
    for row, n in zip(grown, size, strict=True):
        said = row[n : n + LONGEST].tolist()
        out.append(said[: said.index(end)] if end in said else said)
    return out
