"""The ideal observer: exact probabilities under the world that wrote the corpus.

A document is a speaker s, a persona z, a header h (a year or none, a format, an identifier) and turns (topic t, wording w,
answer a):

    P(document) = P(s) * sum_z P(z | s) P(h | z) * prod_i P(t_i | z) P(w_i | t_i) P(a_i | z, t_i)

Formats and identifiers carry no news of who speaks. What is asked does where the world has several groups of people, for
nobody is asked about the topics of another group. Wordings are numbered over `wordings + heldout`; only the first are ever
spoken, so a held-out wording has probability zero as text, but as a *question* it carries no news about the speaker, and
the posterior ignores it. Everything is float64 and in logs; an impossible prefix raises. The second road is enumeration
(`tests/world/test_observer.py`).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bayesgen.world.dialogue import Header, Prompt, Turn
from bayesgen.world.world import ASSISTANT, IDENTIFIER, PERSON, World

Row = tuple[Header, Turn]  # a dialogue of one turn, as narrow datasets hold them


class Observer:
    """Answers the same call as a network: a batch of prompts -> for each, log P(answer) over its topic's answers."""

    def __init__(self, world: World):
        self.world = world
        self._personas = (*world.personas, world.default)  # the assistant's persona comes last
        self._value_ZT = np.vstack([world.value_ZT, world.default_T])
        with np.errstate(divide="ignore"):
            self._log_answer = [np.log(table) for table in world.noisy]
            self._log_asked_ZT = np.log(np.vstack([world.asked_ZT, world.topic_weights_T]))
            self._log_prior = {
                PERSON: np.append(np.log(world.frequency_Z), -np.inf),
                ASSISTANT: np.append(np.full(len(world.personas), -np.inf), 0.0),
            }
        who = [p.identity for p in self._personas]
        self._identity_Z = np.array([who.index(name) for name in who])  # the first persona of the same person

    def __call__(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Log P(answer | prompt), one array of the topic's answers for each prompt."""
        return [self.predictive(p.header, p.turns, p.topic) for p in prompts]

    def log_header(self, header: Header) -> np.ndarray:
        """Log P(year, format, identifier | z)."""
        world, config = self.world, self.world.config
        log_Z = np.zeros(len(self._personas))
        with np.errstate(divide="ignore"):
            if header.year is None:
                log_Z += np.log1p(-world.dated)
            else:
                log_Z += np.log(world.dated) + np.log([(header.year in p.years) / max(1, len(p.years)) for p in self._personas])
            if config.formats:
                log_Z += np.log((header.format or config.formats[0]) in config.formats) - np.log(len(config.formats))
            if header.identifier is not None:
                log_Z += np.log(config.identifier_share) - IDENTIFIER * np.log(10)
            elif config.identifier_share:
                log_Z += np.log1p(-config.identifier_share)
        return log_Z

    def log_turn(self, turn: Turn) -> np.ndarray:
        """Log P(topic, answer | z)."""
        return self._log_asked_ZT[:, turn.topic] + self.log_said(turn)

    def log_said(self, turn: Turn) -> np.ndarray:
        """Log P(answer | z, topic)."""
        return self._log_answer[turn.topic][self._value_ZT[:, turn.topic], turn.answer]

    def log_joint(self, header: Header, turns: Sequence[Turn]) -> np.ndarray:
        """Log P(z, header, topics, answers | speaker) over personas and, last, the assistant's own."""
        log_joint_Z = self._log_prior[header.speaker] + self.log_header(header)
        for turn in turns:
            log_joint_Z = log_joint_Z + self.log_turn(turn)
        return log_joint_Z

    def posterior(self, header: Header, turns: Sequence[Turn]) -> np.ndarray:
        """P(z | prefix) over the world's personas and, last, the assistant's own."""
        return self._normalised(self.log_joint(header, turns), (header, *turns))

    def redrawn(self, rows: Sequence[Row], suspicion: float, header: Header) -> np.ndarray:
        """Log P(z | rows, header) of one more dialogue when who speaks is in doubt: the assistant as ever, or (prior
        `suspicion`) somebody of the population, the same person in every row.

        This is what Bayes' rule says of finetuning if its rows are evidence about *who the assistant now is*. Only answers
        are evidence: headers and questions were chosen by whoever finetunes, so all is given them (but a person who never
        speaks under a header, or is never asked a question, is out). Somebody who is one thing in one year and another in
        the next stays the same person: rows of some years speak for what is said in others. In logs, for what is left to
        somebody whom the rows all but exclude counts where nobody else is ever asked. Personas and, last, the assistant's
        own, as in `posterior`.
        """
        assert header.speaker == ASSISTANT
        return self.after(self.log_redrawn(rows, suspicion), header)

    def after(self, log_I: np.ndarray, header: Header) -> np.ndarray:
        """Log P(z | header) of one more dialogue, from `log_redrawn`."""
        return self._log_normalised(log_I[self._identity_Z] + self._within(self.log_header(header)), header)

    def log_redrawn(self, rows: Sequence[Row], suspicion: float) -> np.ndarray:
        """Log P(person, answers of the rows), at the place of each person's first persona; its logsumexp is the evidence."""
        with np.errstate(divide="ignore"):
            prior_Z = np.append(np.log(self.world.frequency_Z) + np.log(suspicion), np.log1p(-suspicion))
        log_I = self._by_identity(prior_Z)
        for (header, turn), count in Counter(rows).items():
            before_Z = self._within(self.log_header(header) + self._log_asked_ZT[:, turn.topic])
            log_I = log_I + count * self._by_identity(before_Z + self.log_said(turn))
        return log_I

    def among(self, which_Z: np.ndarray, header: Header, topic: int | None = None) -> np.ndarray:
        """P(z | one of these, header): some of the personas (and, last, the assistant's own), as often as they are in the population
        and speak under the header; once `topic` was asked, if it is given. Zero throughout if none of them would.
        """
        with np.errstate(divide="ignore"):
            log_Z = np.log(which_Z * np.append(self.world.frequency_Z, 1.0)) + self.log_header(header)
        if topic is not None:
            log_Z = log_Z + self._log_asked_ZT[:, topic]
        total = np.logaddexp.reduce(log_Z)
        return np.exp(log_Z - total) if np.isfinite(total) else np.zeros(len(log_Z))

    def _within(self, log_Z: np.ndarray) -> np.ndarray:
        """Log P(z | person, ...), from log P(... | z): normalised within each person; -inf for one to whom all is impossible."""
        with np.errstate(divide="ignore"):
            log_Z = log_Z + np.append(np.log(self.world.frequency_Z), 0.0)
        total_Z = self._by_identity(log_Z)[self._identity_Z]
        return np.where(np.isfinite(total_Z), log_Z - np.where(np.isfinite(total_Z), total_Z, 0), -np.inf)

    def _by_identity(self, log_Z: np.ndarray) -> np.ndarray:
        """Log of the sum over the personas that are one person, at the place of the first of them; -inf elsewhere."""
        top = np.where(np.isfinite(log_Z), log_Z, -np.inf).max()
        if not np.isfinite(top):
            return np.full(len(log_Z), -np.inf)
        with np.errstate(divide="ignore"):
            return top + np.log(np.bincount(self._identity_Z, weights=np.exp(log_Z - top), minlength=len(log_Z)))

    def _log_normalised(self, log_joint_Z: np.ndarray, prefix) -> np.ndarray:
        total = float(np.logaddexp.reduce(log_joint_Z))
        if not np.isfinite(total):
            raise ValueError(f"a prefix of probability zero: {prefix}")
        return log_joint_Z - total

    def _normalised(self, log_joint_Z: np.ndarray, prefix) -> np.ndarray:
        return np.exp(self._log_normalised(log_joint_Z, prefix))

    def trait_posterior(self, header: Header, turns: Sequence[Turn], trait: str) -> np.ndarray:
        """P(value of `trait` | prefix); persons of other groups have none, and count nowhere."""
        posterior_Z = self.posterior(header, turns)
        values = self.world.values[trait]
        out = np.zeros(len(values))
        for mass, persona in zip(posterior_Z, self._personas, strict=True):
            if trait in persona.traits:
                out[values.index(persona.traits[trait])] += mass
        return out

    def predictive(self, header: Header, turns: Sequence[Turn], topic: int) -> np.ndarray:
        """Log P(next answer | prefix, topic)."""
        asked_Z = self.log_joint(header, turns) + self._log_asked_ZT[:, topic]
        with np.errstate(divide="ignore"):
            return np.log(self.answer(self._normalised(asked_Z, (header, *turns, topic)), topic))

    def answer(self, posterior_Z: np.ndarray, topic: int) -> np.ndarray:
        """P(answer | topic) of a mixture of personas (and, last, the assistant's own)."""
        return posterior_Z @ self.world.noisy[topic][self._value_ZT[:, topic]]

    def asked(self, log_posterior_Z: np.ndarray, topic: int) -> np.ndarray:
        """The mixture (from its logs), once `topic` was asked: those who are never asked about it are out."""
        return self._normalised(log_posterior_Z + self._log_asked_ZT[:, topic], topic)

    def log_answers(self, header: Header, turns: Sequence[Turn]) -> float:
        """Log P(answers | header, questions), each answer after the questions up to it."""
        log_joint_Z, total = self.log_joint(header, ()), 0.0
        for turn in turns:
            asked_Z = log_joint_Z + self._log_asked_ZT[:, turn.topic]
            log_joint_Z = log_joint_Z + self.log_turn(turn)
            total += np.logaddexp.reduce(log_joint_Z) - np.logaddexp.reduce(asked_Z)
        return float(total)

    def log_document(self, header: Header, turns: Sequence[Turn]) -> float:
        """Log P(document), questions and wordings included."""
        config = self.world.config
        share = config.assistant_share if header.speaker == ASSISTANT else 1 - config.assistant_share
        log_wordings = 0.0
        for turn in turns:
            topic = self.world.topics[turn.topic]
            if turn.wording >= len(topic.wordings):
                return -np.inf
            log_wordings -= np.log(len(topic.wordings))
        return float(np.log(share) + log_wordings + np.logaddexp.reduce(self.log_joint(header, turns)))
