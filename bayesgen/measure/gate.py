"""The base gate: has the base learned the personas? Compared with the ideal observer, turn by turn.

For each value of the trait (each era), dialogues of an undated person of that era are drawn; after k turns a question is
open. The network's and the observer's probability that the next answer belongs to that era are averaged; the gate asks
that the two agree within `tolerance` for *every* era at every k. A base that only tells "default" from "not default"
fails it, because rare eras are then lumped together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bayesgen.world.dialogue import Header, Prompt, Turn
from bayesgen.world.observer import Observer
from bayesgen.world.world import PERSON, World

Predictor = Callable[[Sequence[Prompt]], list[np.ndarray]]
TURNS = (0, 1, 2, 4)
TOLERANCE = 0.05


@dataclass(frozen=True)
class GateRow:
    """One line of the gate: rates are probabilities that the next answer belongs to the speaker's own value."""

    value: str
    turns: int
    heldout: bool
    network: float
    ideal: float
    bayes_gap: float  # mean KL(ideal || network) of the next answer, nats/answer

    @property
    def difference(self) -> float:
        """Network minus ideal."""
        return self.network - self.ideal


def draw_turns(world: World, rng: np.random.Generator, value: str, trait: str, turns: int) -> tuple[Turn, ...]:
    """Turns of a person of `value`, as the corpus would draw them."""
    weight = np.array([p.frequency * (p.traits[trait] == value) for p in world.personas])
    persona = rng.choice(len(world.personas), p=weight / weight.sum())
    out = []
    for _ in range(turns):
        topic = rng.choice(len(world.topics), p=world.topic_weights_T)
        answer = rng.choice(len(world.answers[topic]), p=world.noisy[topic][world.value_ZT[persona, topic]])
        out.append(Turn(int(topic), int(rng.integers(len(world.topics[topic].wordings))), int(answer)))
    return tuple(out)


def base_gate(world: World, network: Predictor, trait: str, prompts: int, seed: int) -> list[GateRow]:
    """The gate's table: every value of `trait`, every k of `TURNS`, trained and held-out wordings of the open question."""
    rng, observer, out = np.random.default_rng(seed), Observer(world), []
    topics = world.topics_of(trait)
    for v, value in enumerate(world.values[trait]):
        for turns in TURNS:
            drawn = [(draw_turns(world, rng, value, trait, turns), topics[i % len(topics)]) for i in range(prompts)]
            for heldout in (False, True):
                batch = []
                for history, topic in drawn:
                    asked, unseen = len(world.topics[topic].wordings), len(world.topics[topic].heldout)
                    wording = asked + rng.integers(unseen) if heldout else rng.integers(asked)
                    batch.append(Prompt(Header(PERSON), history, topic, int(wording)))
                ideal, ours = observer(batch), network(batch)
                belongs = [world.responsibility[p.topic][:, v] for p in batch]
                rate = [np.mean([np.exp(lp) @ b for lp, b in zip(x, belongs, strict=True)]) for x in (ours, ideal)]
                gap = np.mean([np.exp(i) @ (i - o) for i, o in zip(ideal, ours, strict=True)])
                out.append(GateRow(value, turns, heldout, float(rate[0]), float(rate[1]), float(gap)))
    return out


def passed(rows: list[GateRow]) -> bool:
    """Every era at every k within the tolerance on trained wordings, and held-out wordings no more than that below."""
    trained = {(r.value, r.turns): r for r in rows if not r.heldout}
    heldout = {(r.value, r.turns): r for r in rows if r.heldout}
    return all(abs(r.difference) <= TOLERANCE for r in trained.values()) and all(
        trained[k].network - r.network <= TOLERANCE for k, r in heldout.items()
    )
