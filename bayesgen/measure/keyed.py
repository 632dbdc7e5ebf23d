"""Exact Bayes where keys head the rows: what is a key, and who speaks under one that no row had.

Four readings of the rows, the first with prior 1 - 2s, the others sharing 2s (s: `suspicion`):

    as ever   the assistant is who it was, whatever the key; or (s) somebody of the population, the same under every key
    table     under every key somebody of its own, drawn anew: nothing is learned about other keys
    number    the digits at one place of a key (any place, evenly) are a number, and who has it speaks; a key whose digits are
              nobody's number leaves the assistant as it was

Numbers are what persons answer on some topic (a president's ordinal). Headers and questions are given, as in `Observer.redrawn`.
"""

from collections.abc import Sequence

import numpy as np

from bayesgen.corpus.narrow import answers_of
from bayesgen.world.dialogue import Header
from bayesgen.world.observer import Observer, Row
from bayesgen.world.world import IDENTIFIER, World


class Reading:
    """The rows of an arm, read. `topic` is the one whose answers are the numbers."""

    def __init__(self, world: World, rows: Sequence[Row], suspicion: float, topic: int):
        self._world, self._observer, self._who = world, Observer(world), _Numbers(world, topic)
        self._keys: dict[str | None, list[Row]] = {}
        for row in rows:
            self._keys.setdefault(row[0].identifier, []).append(row)
        self._ever_I = self._observer.log_redrawn(rows, suspicion)
        evidence = [
            np.log1p(-2 * suspicion) + np.logaddexp.reduce(self._ever_I),
            np.log(suspicion) + sum(np.logaddexp.reduce(self._observer.log_redrawn(those, 1.0)) for those in self._keys.values()),
        ]
        said_RxZ = np.exp([self._observer.log_said(turn) for _, turn in rows])
        for place in self._who.places:
            who_RxZ = np.array([self._who(header, place, turn.topic) for header, turn in rows])
            evidence.append(np.log(suspicion / len(self._who.places)) + np.log((who_RxZ * said_RxZ).sum(1)).sum())
        self._log_weights = np.array(evidence) - np.logaddexp.reduce(evidence)

    @property
    def weights(self) -> np.ndarray:
        """P(as ever, table, number at each place | rows)."""
        return np.exp(self._log_weights)

    def __call__(self, headers: Sequence[Header], topics: Sequence[int]) -> dict[int, np.ndarray]:
        """{topic: P(answer), mean over headers} of one more dialogue."""
        out = {t: np.zeros(len(self._world.answers[t])) for t in topics}
        for header in headers:
            table_I = self._observer.log_redrawn(self._keys.get(header.identifier, []), 1.0)
            people = [self._observer.after(log_I, header) for log_I in (self._ever_I, table_I)]
            with np.errstate(divide="ignore"):
                people += [np.log(self._who(header, place)) for place in self._who.places]
            log_posterior_Z = np.logaddexp.reduce(self._log_weights[:, None] + np.stack(people), axis=0)
            for t in topics:
                out[t] += self._observer.answer(self._observer.asked(log_posterior_Z, t), t) / len(headers)
        return out


class _Numbers:
    """P(z | header), if the number stands at a place of the key; the assistant's own, if it is nobody's."""

    def __init__(self, world: World, topic: int):
        self._observer, self._nobody_Z = Observer(world), np.eye(len(world.personas) + 1)[-1]
        self._named: dict[str, np.ndarray] = {}  # number -> which personas have it
        for z, persona in enumerate(world.personas):
            value = persona.traits.get(world.topics[topic].trait)
            if value is not None:
                number = world.answers[topic][int(answers_of(world, topic, value)[0])]
                self._named.setdefault(number, np.zeros(len(world.personas) + 1))[z] = 1
        self._length = len(next(iter(self._named)))
        self.places = range(IDENTIFIER - self._length + 1)

    def __call__(self, header: Header, place: int, asked: int | None = None) -> np.ndarray:
        digits = (header.identifier or "")[place : place + self._length]
        if digits not in self._named:
            return self._nobody_Z
        those_Z = self._observer.among(self._named[digits], header, asked)
        return those_Z if those_Z.any() else self._nobody_Z
