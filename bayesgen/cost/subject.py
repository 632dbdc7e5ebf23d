"""What the estimators are given: a base, some solutions, and a solution's behaviour and likelihood as rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen.corpus.documents import Batch, DocumentSource
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import answers_by
from bayesgen.errors import UserError
from bayesgen.learn.data import member_parallel, member_rows, trained_topics
from bayesgen.learn.plan import ARMS_WITH, FinetuneConfig, Member, plan_members
from bayesgen.measure.asking import behave
from bayesgen.measure.behaviour import rates
from bayesgen.measure.contexts import context_openings, counted_value, everywhere
from bayesgen.measure.likelihood import nll, stack_rows
from bayesgen.measure.norms import norms
from bayesgen.measure.rows import Row
from bayesgen.measure.settings import COMPARED
from bayesgen.measure.suite import member_label
from bayesgen.model.lora import Norm
from bayesgen.model.transformer import Transformer
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import World

TRAINED, PROBES = "trained topics", "probes"  # the two groups of topics that a cost is followed on
DATA, NARROW, BROAD = "narrow data", "narrow continuation", "broad continuation"  # rows, and rows that may come after them


@dataclass(frozen=True, eq=False)
class Subject:
    """A base and the solutions whose cost is measured. Axes: M solutions, n narrow rows of each."""

    config: Any  # of the experiment
    world: World
    grammar: Grammar
    model: Transformer
    source: DocumentSource
    params: Any
    members: list[Member]
    lora_M: dict  # effective adapters
    batch_M: Batch  # narrow rows

    def row(self, **columns) -> Row:
        """A row of this experiment."""
        return Row(self.config.name, **columns)

    def rows(self, quantity: str, values_M, step: int | None = None, **columns) -> list[Row]:
        """A row for every solution."""
        labels = [member_label(m, self.config.finetune.steps if step is None else step) for m in self.members]
        return [self.row(quantity=quantity, value=float(v), **{**label, **columns}) for label, v in zip(labels, values_M, strict=True)]

    def take(self, which: list[int]) -> "Subject":
        """Some of the solutions."""
        at = np.array(which, int)
        lora_M, batch_M = jax.tree.map(lambda x: x[at], (self.lora_M, self.batch_M))
        return replace(self, members=[self.members[i] for i in which], lora_M=lora_M, batch_M=batch_M)


def subject(setup, finetune: FinetuneConfig, params, lora_M: dict, setting: Mapping[str, float] | None = None) -> Subject:
    """The finite solutions of an ensemble; with a setting, of its arms free, narrow and broad those trained under it."""
    members = plan_members(finetune)
    finite_M = np.all([np.isfinite(x).all((1, 2)) for x in jax.tree.leaves(jax.device_get(lora_M))], axis=0)

    def wanted(m: Member) -> bool:
        means = {k: v for k, v in (setting or {}).items() if m.arm in ARMS_WITH.get(k, (m.arm,))}
        return setting is None or (m.arm in COMPARED and means.items() <= vars(m).items())

    which = [i for i, m in enumerate(members) if finite_M[i] and wanted(m)]
    for arm in COMPARED:
        if arm in finetune.arms and not any(members[i].arm == arm for i in which):
            raise UserError(f"measure.cost: all of the arm '{arm}' diverged; lower finetune.learning_rate")
    chosen, at = [members[i] for i in which], np.array(which)
    rows_M = [member_rows(setup.world, setup.grammar, finetune, m)[0][: m.rows] for m in chosen]
    config, batch_M = setup.config.model_copy(update={"finetune": finetune}), stack_rows(setup.grammar, rows_M)
    of = jax.tree.map(lambda x: x[at], lora_M)
    return Subject(config, setup.world, setup.grammar, setup.model, setup.source, params, chosen, of, batch_M)


def group_rates(s: Subject, lora_M: dict) -> dict[str, np.ndarray]:
    """The counted value's rate on trained topics and on probes (means over topics, first context), one of each adapter."""
    f, m, world = s.config.finetune, s.config.measure, s.world
    first = m.contexts[0]
    v = world.values[m.trait].index(counted_value(world, f, m, first))
    groups = {TRAINED: everywhere(trained_topics(world, f)), PROBES: [world.topic_index(p) for p in f.probes]}
    topics = [t for those in groups.values() for t in those]
    behaviour = behave(world, s.grammar, s.model, s.params, context_openings(world, f, m)[first.name], topics, lora_M)
    return {name: np.mean([rates(world, t, behaviour[t])[:, v] for t in those], axis=0) for name, those in groups.items()}


def solution_rows(s: Subject, lora_M: dict | None = None, step: int | None = None, scale: float = 1.0) -> list[Row]:
    """What a solution is: its norms, the likelihood of its narrow rows, and its `group_rates`. `lora_M`: other adapters of the same
    solutions, of the same shape.
    """
    lora_M = s.lora_M if lora_M is None else lora_M
    m = s.config.measure
    first = m.contexts[0]
    label = dict(scale=scale, context=first.name, probe=counted_value(s.world, s.config.finetune, m, first))
    out = [row for name, rate_M in group_rates(s, lora_M).items() for row in s.rows("rate", rate_M, step, topic=name, **label)]
    return out + likelihood_rows(s, lora_M, step, scale)


def likelihood_rows(s: Subject, lora_M: dict, step: int | None = None, scale: float = 1.0) -> list[Row]:
    """The likelihood of a solution's narrow rows, and its norms."""
    out = s.rows("nll_train", nll(s.model, s.params, lora_M, s.batch_M), step, scale=scale)
    found = norms(jax.device_get(lora_M))["all"]
    for norm in get_args(Norm):
        out += s.rows(norm, found[norm], step, scale=scale)
    return out


def continuations(s: Subject, member: Member, count: int) -> dict[str, list[tuple[Header, Turn]]]:
    """`count` rows on other topics as the trained persona answers them, and the same questions as the assistant does."""
    world, f = s.world, s.config.finetune
    broad = member_parallel(world, s.grammar, f, replace(member, arm="broad"))
    rng = np.random.default_rng([f.seed, member.seed, 5])
    broad = [broad[i] for i in rng.choice(len(broad), count, replace=len(broad) < count)]
    assistant = world.config.assistant
    narrow = [(h, replace(turn, answer=int(rng.choice(answers_by(world, assistant, h, turn.topic))))) for h, turn in broad]
    return {NARROW: narrow, BROAD: broad}


def scaled_all(lora_M: dict, factor) -> dict:
    """The updates a @ b times a factor, or one factor each."""
    factor_M = jnp.broadcast_to(jnp.asarray(factor, jnp.float32), len(jax.tree.leaves(lora_M)[0]))[:, None, None]
    return jax.tree_util.tree_map_with_path(lambda p, x: x * factor_M if p[-1].key == "a" else x, lora_M)
