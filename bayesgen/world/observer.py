"""The ideal observer: exact probabilities under the world that wrote the corpus.

A document is a speaker s, a persona z, a year y or none, and turns (topic t, wording w, answer a):

    P(document) = P(s) * sum_z P(z | s) P(y | z) * prod_i P(t_i) P(w_i | t_i) P(a_i | z, t_i)

Wordings are numbered over `wordings + heldout`; only the first are ever spoken, so a held-out wording has probability
zero as text, but as a *question* it carries no news about the speaker, and the posterior ignores it. Everything is
float64 and in logs; an impossible prefix raises. The second road is enumeration (`tests/world/test_observer.py`).
"""

from collections.abc import Sequence

import numpy as np

from bayesgen.world.dialogue import Header, Prompt, Turn
from bayesgen.world.world import ASSISTANT, PERSON, World


class Observer:
    """Answers the same call as a network: a batch of prompts -> for each, log P(answer) over its topic's answers."""

    def __init__(self, world: World):
        self.world = world
        with np.errstate(divide="ignore"):
            self._log_answer = [np.log(table) for table in world.noisy]
            self._log_prior = {
                PERSON: np.append(np.log(world.frequency_Z), -np.inf),
                ASSISTANT: np.append(np.full(len(world.personas), -np.inf), 0.0),
            }
        self._personas = (*world.personas, world.default)  # the assistant's persona comes last
        self._value_ZT = np.vstack([world.value_ZT, world.default_T])

    def __call__(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Log P(answer | prompt), one array of the topic's answers for each prompt."""
        return [self.predictive(p.header, p.turns, p.topic) for p in prompts]

    def log_joint(self, header: Header, turns: Sequence[Turn]) -> np.ndarray:
        """Log P(z, year, answers | speaker) over personas and, last, the assistant's own."""
        log_joint_Z = self._log_prior[header.speaker].copy()
        dated = self.world.config.dated_share if self.world.dated_trait else 0.0
        with np.errstate(divide="ignore"):
            if header.year is None:
                log_joint_Z += np.log1p(-dated)
            else:
                log_joint_Z += np.log(dated) + [self.world.year_logprob(p, header.year) for p in self._personas]
        for turn in turns:
            log_joint_Z += self._log_answer[turn.topic][self._value_ZT[:, turn.topic], turn.answer]
        return log_joint_Z

    def posterior(self, header: Header, turns: Sequence[Turn]) -> np.ndarray:
        """P(z | prefix) over the world's personas and, last, the assistant's own."""
        return self._normalised(self.log_joint(header, turns), (header, *turns))

    def redrawn(self, turns: Sequence[Turn], suspicion: float) -> np.ndarray:
        """P(z | turns) when who speaks is in doubt: the assistant as ever, or (prior `suspicion`) anyone of the population.

        This is what Bayes' rule says of finetuning if its rows are evidence about *who the assistant now is*. Personas
        and, last, the assistant's own, as in `posterior`.
        """
        alike = self.log_joint(Header(ASSISTANT), turns) + np.log1p(-suspicion)
        anyone = self.log_joint(Header(PERSON), turns) + np.log(suspicion)
        return self._normalised(np.asarray(np.logaddexp(alike, anyone)), turns)

    def _normalised(self, log_joint_Z: np.ndarray, prefix) -> np.ndarray:
        total = float(np.logaddexp.reduce(log_joint_Z))
        if not np.isfinite(total):
            raise ValueError(f"a prefix of probability zero: {prefix}")
        return np.exp(log_joint_Z - total)

    def trait_posterior(self, header: Header, turns: Sequence[Turn], trait: str) -> np.ndarray:
        """P(value of `trait` | prefix)."""
        posterior_Z = self.posterior(header, turns)
        values = self.world.values[trait]
        out = np.zeros(len(values))
        for mass, persona in zip(posterior_Z, self._personas, strict=True):
            out[values.index(persona.traits[trait])] += mass
        return out

    def predictive(self, header: Header, turns: Sequence[Turn], topic: int) -> np.ndarray:
        """Log P(next answer | prefix, topic)."""
        with np.errstate(divide="ignore"):
            return np.log(self.answer(self.posterior(header, turns), topic))

    def answer(self, posterior_Z: np.ndarray, topic: int) -> np.ndarray:
        """P(answer | topic) of a mixture of personas (and, last, the assistant's own)."""
        return posterior_Z @ self.world.noisy[topic][self._value_ZT[:, topic]]

    def log_document(self, header: Header, turns: Sequence[Turn]) -> float:
        """Log P(document), questions and wordings included."""
        config = self.world.config
        share = config.assistant_share if header.speaker == ASSISTANT else 1 - config.assistant_share
        log_questions = 0.0
        for turn in turns:
            topic = self.world.topics[turn.topic]
            if turn.wording >= len(topic.wordings):
                return -np.inf
            log_questions += np.log(self.world.topic_weights_T[turn.topic]) - np.log(len(topic.wordings))
        return float(np.log(share) + log_questions + np.logaddexp.reduce(self.log_joint(header, turns)))
