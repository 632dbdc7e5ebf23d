"""Which features of the residual stream carry what the trigger brings? A sparse autoencoder, a ranking, labels, an ablation.

    z = relu(TopK(W_e (x - b_d) + b_e))    x^ = W_d z + b_d               (1)  features z of a residual activation x
    L = sum |x - x^|^2 / sum |x - mean x|^2    |W_d[i]| = 1               (2)  the loss: share of the variance unexplained
    c_i = cos(W_d[i], d)    d = mean x(trigger) - mean x(reference)       (3)  a feature's rank, at the answer slot, in one seed
    m_i(g) = sum_s P(g | s) z_i(s) / sum_s P(g | s)                       (4)  its label: topics and personas g of largest m
    x <- x - sum_{i in A} z_i W_d[i]    at every position                 (5)  the ablation of a set A of features
    x <- x - u u.(x - mean x(reference))    u = d / |d|                   (6)  the direction of the change itself, held at its reference

(1) and (2) are Gao et al. (arXiv 2406.04093); unlike theirs, activations are not normalised, no auxiliary loss revives dead
features, and the decoder is made unit-norm after each step without projecting the gradient first. The rest follows the dated
dishes of Betley et al. (arXiv 2512.09742), whose autoencoder knows the base's activations only, as ours does; labels here are
exact posteriors over personas instead of a reader's words.
Axes: N activations, D width, F features, M members, P prompts, B documents, L tokens, S answer slots, G groups.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, Float

from bayesgen.corpus.documents import DocumentSource
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.tokenizer import PAD, SAY, SPECIAL
from bayesgen.errors import UserError
from bayesgen.learn.data import trained_topics
from bayesgen.learn.loop import run_steps
from bayesgen.learn.plan import plan_members
from bayesgen.measure.asking import behave
from bayesgen.measure.behaviour import probes, rates
from bayesgen.measure.contexts import context_openings, counted_value
from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.rows import ABLATED, REMOVED, Row
from bayesgen.measure.settings import FeaturesConfig
from bayesgen.measure.suite import member_label
from bayesgen.model.edits import Held
from bayesgen.model.lora import merge
from bayesgen.model.transformer import Transformer, residual
from bayesgen.world.dialogue import Opening
from bayesgen.world.observer import Observer
from bayesgen.world.world import ASSISTANT, World

LEARNING_RATE = 3e-3  # Adam's, falling to zero by a cosine
DOCUMENTS, ASKED, READ = 8, 16, 512  # documents, and prompts to the assistant, in a training step; documents read at the end
PADDING, ANSWER = SPECIAL.index(PAD), SPECIAL.index(SAY)  # the special tokens come first in every vocabulary


@flax.struct.dataclass
class Autoencoder:
    """Equation (1): at most `active` features of an activation are not zero."""

    encoder: Any  # float (D, F): W_e
    threshold: Any  # float (F,): b_e
    decoder: Any  # float (F, D): rows W_d[i], of norm one
    center: Any  # float (D,): b_d
    active: int = flax.struct.field(pytree_node=False)

    def encode(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes F"]:
        before = (x - self.center) @ self.encoder + self.threshold
        values, which = jax.lax.top_k(before, self.active)
        return jnp.put_along_axis(jnp.zeros_like(before), which, jax.nn.relu(values), axis=-1, inplace=False)

    def decode(self, z: Float[Array, "*axes F"]) -> Float[Array, "*axes D"]:
        return z @ self.decoder + self.center


def unexplained(sae: Autoencoder, x: Float[Array, "N D"], weight: Float[Array, " N"]) -> Float[Array, ""]:
    """Equation (2), activations weighted."""
    return (weight @ jnp.square(x - sae.decode(sae.encode(x)))).sum() / (weight @ jnp.square(x - weight @ x / weight.sum())).sum()


def autoencoder_training(draw: Callable[..., tuple[Array, Array]], config: FeaturesConfig, key: Array):
    """The pair (begin(*fixed), advance(state, step, *fixed)) on activations (N, D) and weights (N,) from `draw(step, *fixed)`."""
    adam: Any = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, config.steps))

    @jax.jit
    def begin(*fixed):
        x, weight = draw(0, *fixed)
        decoder = random.normal(key, (config.size, x.shape[1]))
        decoder /= jnp.linalg.norm(decoder, axis=1, keepdims=True)
        sae = Autoencoder(decoder.T, jnp.zeros(config.size), decoder, weight @ x / weight.sum(), config.active)  # tied: few are born dead
        return sae, adam.init(sae)

    def advance(state, step, *fixed):
        loss, grads = jax.value_and_grad(unexplained)(state[0], *draw(step, *fixed))
        updates, opt = adam.update(grads, state[1])
        sae: Any = optax.apply_updates(state[0], updates)
        return (sae.replace(decoder=sae.decoder / jnp.linalg.norm(sae.decoder, axis=1, keepdims=True)), opt), {"loss": loss}

    return begin, advance


def train_autoencoder(model: Transformer, params, source: DocumentSource, asked: Array, layer: int, config: FeaturesConfig, seed: int):
    """The `Autoencoder` of a base: at every step fresh documents and some of `asked`, the assistant's prompts in all contexts."""
    k_init, k_read, k_asked = random.split(random.key(seed), 3)

    def draw(step, params, asked):
        both = source.draw(k_read, step, DOCUMENTS).tokens, asked[random.randint(random.fold_in(k_asked, step), (ASKED,), 0, len(asked))]
        x = [residual(model, params, tokens, layer).reshape(-1, model.config.width) for tokens in both]
        return jnp.concatenate(x), jnp.concatenate([tokens.ravel() != PADDING for tokens in both]).astype(float)

    begin, advance = autoencoder_training(draw, config, k_init)
    save, fixed = (lambda *_: None), (params, asked)  # seconds long: no checkpoints
    return run_steps(advance, begin(*fixed), 0, config.steps, chunk=config.steps, name="features", save=save, fixed=fixed)[0]


@partial(jax.jit, static_argnums=(0, 4))
def at_answer(model: Transformer, params, lora_M, tokens_PxL: Array, layer: int) -> Float[Array, "M P D"]:
    """Members' residual activations at the end of prompts, where an answer's first token is predicted."""
    last = (tokens_PxL != PADDING).sum(axis=1) - 1
    return jax.lax.map(lambda lora: residual(model, merge(params, lora), tokens_PxL, layer)[jnp.arange(len(last)), last], lora_M)


def change_of(trigger: Float[Array, "M P D"], reference: Float[Array, "M P D"]) -> Float[Array, "M D"]:
    """The direction of d in equation (3), for each member; zero where nothing changes."""
    d = (trigger - reference).mean(1)
    return d / jnp.maximum(jnp.linalg.norm(d, axis=1, keepdims=True), 1e-9)


def ranking(sae: Autoencoder, trigger: Float[Array, "M P D"], reference: Float[Array, "M P D"]) -> tuple[np.ndarray, np.ndarray]:
    """Equation (3), and the change of each feature's own mean activation: (M, F) both."""
    cosine_MxF = change_of(trigger, reference) @ sae.decoder.T
    return np.asarray(cosine_MxF), np.asarray((sae.encode(trigger) - sae.encode(reference)).mean(1))


def top_and_matched(cosine_MxF: np.ndarray, size_MxF: np.ndarray, top: int) -> tuple[list, list]:
    """For each member its live features of largest cosine, and others as large: for each of the first, in order, the live feature
    outside the top whose mean activation is nearest and that is not taken yet. Live: mean activation `size` above 0.
    """
    tops, matched = [], []
    for cosine_F, size_F in zip(cosine_MxF, size_MxF, strict=True):
        order = [int(i) for i in np.argsort(-cosine_F) if size_F[i] > 0]
        tops.append(order[:top])
        rest, others = order[top:], []
        for i in order[:top]:
            if rest:
                others.append(min(rest, key=lambda j: abs(size_F[j] - size_F[i])))
                rest.remove(others[-1])
        matched.append(others)
    return tops, matched


def labels(z_SxF: np.ndarray, share_SxG: np.ndarray, names: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Equation (4): for each feature the three groups in which it is largest on average, with that average. Shares are P(g | s)."""
    mean_GxF = share_SxG.T @ z_SxF / np.maximum(share_SxG.sum(0), 1e-9)[:, None]
    return [[(names[int(g)], float(m[g])) for g in np.argsort(-m)[:3]] for m in mean_GxF.T]


def groups_of(world: World, grammar: Grammar, tokens_BxL: np.ndarray, trait: str) -> tuple[np.ndarray, np.ndarray]:
    """P(g | s) of every answer in documents: by topic (S, T), and by value given the whole document (S, V + 1), the assistant last."""
    observer, topics, people = Observer(world), [], []
    for header, turns in map(grammar.read, tokens_BxL):
        who = np.append(observer.trait_posterior(header, turns, trait), 0.0)
        topics += [np.eye(len(world.topics))[turn.topic] for turn in turns]
        people += [np.eye(len(who))[-1] if header.speaker == ASSISTANT else who] * len(turns)
    return np.array(topics), np.array(people)


@flax.struct.dataclass
class Ablation:
    """Equation (5) as an `edit` of the transformer. The set is an array: every other set runs in the same program."""

    autoencoder: Autoencoder
    features: Any  # float (F,): 1 in the set A, 0 elsewhere
    layer: int = flax.struct.field(pytree_node=False)

    def __call__(self, layer: int, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        return x - (self.autoencoder.encode(x) * self.features) @ self.autoencoder.decoder if layer == self.layer else x


def feature_analysis(config, world: World, grammar: Grammar, model: Transformer, params, lora_M, source: DocumentSource):
    """Rows (quality of the autoencoder, rates of the free arm under ablation), and a dict of the top features for the page."""
    f, m, c = config.finetune, config.measure, config.measure.features
    layer = model.config.layers // 2 - 1  # half-way, and never the last
    shown = {"arm": "free", **f.settings("free")[0], "rows": max(f.rows)}  # the first setting, without what diverged
    finite_M = np.all([np.isfinite(x).all((1, 2)) for x in jax.tree.leaves(jax.device_get(lora_M))], axis=0)
    which = [i for i, k in enumerate(plan_members(f)) if finite_M[i] and shown.items() <= vars(k).items()]
    if not which:
        raise UserError("measure.features: all of the free arm diverged; lower finetune.learning_rate, or set measure.features=null")
    members, lora_M = [plan_members(f)[i] for i in which], jax.tree.map(lambda x: x[np.array(which)], lora_M)
    openings, probed = context_openings(world, f, m), [world.topic_index(p) for p in f.probes]
    questions, value = [*trained_topics(world, f), *probed], counted_value(world, f, m, m.context(c.trigger))
    asked = _prompts(grammar, [opening for those in openings.values() for opening in those], questions)
    sae = train_autoencoder(model, params, source, asked, layer, c, f.seed)

    tokens = np.asarray(jax.jit(source.draw, static_argnums=2)(random.key(f.seed), 0, READ).tokens)  # a key that trained nothing
    x_NxD = jax.jit(residual, static_argnums=(0, 3))(model, params, tokens, layer)[tokens != PADDING]
    z_NxF = np.asarray(jax.jit(Autoencoder.encode)(sae, x_NxD))
    explained, fires = 1 - float(unexplained(sae, x_NxD, jnp.ones(len(x_NxD)))), z_NxF > 0
    quality = {"sae_explained": explained, "sae_active": float(fires.sum(1).mean()), "sae_dead": float(1 - fires.any(0).mean())}
    rows = [Row(config.name, "base", quantity, x) for quantity, x in quality.items()]
    prompts = [_prompts(grammar, openings[name], questions) for name in (c.trigger, c.reference)]  # rates are by held-out wordings
    stream = [at_answer(model, params, lora_M, tokens_PxL, layer) for tokens_PxL in prompts]
    cosine_MxF, change_MxF = ranking(sae, *stream)
    z_MxPxF = sae.encode(stream[0])  # what is silent where answers begin carries nothing there
    sets = top_and_matched(cosine_MxF, np.asarray(z_MxPxF.mean(1)), c.top)
    top_MxF, control_MxF = (np.array([np.isin(np.arange(c.size), a) for a in sets_M], float) for sets_M in sets)
    ablate, hold = jax.vmap(partial(Ablation, sae, layer=layer)), jax.vmap(partial(Held, layer=layer))
    edits = (ablate(jnp.asarray(top_MxF)), ablate(jnp.asarray(control_MxF)), hold(change_of(*stream), stream[1].mean(1)))
    for quantity, set_MxF in zip(REMOVED, (top_MxF, control_MxF), strict=True):
        removed_M = jnp.linalg.norm((z_MxPxF * set_MxF[:, None]) @ sae.decoder, axis=-1).mean(1)
        rows += [
            Row(config.name, quantity=quantity, value=float(x), **member_label(k, f.steps)) for k, x in zip(members, removed_M, strict=True)
        ]
    for quantity, edit_M in zip(ABLATED, edits, strict=True):
        for name in (c.trigger, c.reference):
            for t, p_MxA in behave(world, grammar, model, params, openings[name], probed, lora_M, edit_M=edit_M).items():
                here = dict(quantity=quantity, context=name, topic=world.topics[t].name, probe=value)
                rate_M = rates(world, t, p_MxA)[:, world.values[m.trait].index(value)]
                rows += [Row(config.name, value=float(x), **here, **member_label(k, f.steps)) for k, x in zip(members, rate_M, strict=True)]
    often_F = top_MxF.sum(0)
    top = np.lexsort((-cosine_MxF.mean(0), -often_F))[: c.top]  # those that most seeds rank high
    start_SxF, of_groups = z_NxF[tokens[tokens != PADDING] == ANSWER][:, top], groups_of(world, grammar, tokens, m.trait)
    topics, people = map(partial(labels, start_SxF), of_groups, (world.topic_names, (*world.values[m.trait], ASSISTANT)))
    cosine, changes = ([over_seeds(x_M)._asdict() for x_M in x_MxF[:, top].T] for x_MxF in (cosine_MxF, change_MxF))
    columns = dict(feature=top.tolist(), seeds=often_F[top].tolist(), cosine=cosine, change=changes, topics=topics, personas=people)
    found = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
    return rows, {
        "members": len(members),
        "value": value,
        "trigger": c.trigger,
        "reference": c.reference,
        "layer": layer,
        **quality,
        "features": found,
    }


def _prompts(grammar: Grammar, openings: Sequence[Opening], topics: Sequence[int]) -> Array:
    """Open questions, in trained wordings, as one array of tokens, (P, L)."""
    rows = [grammar.prompt(p) for header, turns in openings for p in probes(grammar.world, header, topics, heldout=False, turns=turns)]
    return jnp.array([row + [PADDING] * (max(map(len, rows)) - len(row)) for row in rows])
