"""Prompts of any length as chunks of the text encoder's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.prompts.weights import Segments

if TYPE_CHECKING:
    from pipelines.base import Base

BACK_OFF = 20
"""How many tokens before a chunk's end a comma may stand to be the place where it is parted."""


_NOWHERE = -1_000_000


@dataclass(frozen=True)
class Chunk:
    """What one run of a text encoder sees of a prompt, bos, eos and padding included.

    ids, weights: as many as the encoder's length; what isn't a word of the prompt has weight 1.
    """

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Cutter:
    """Cuts prompts into chunks for one text encoder."""

    base: Base
    component: str

    def cut(self, segments: Segments) -> list[Chunk]:
        """Return the chunks of a parsed prompt, at least one.

        A chunk that is full is parted behind its last comma, if that is near its end; learned words of
        several vectors stay whole.
        Source: A1111 web UI, `modules/sd_hijack_clip.py`.
        """
        tokenizer = self.base.tokenizer_of(self.component)
        filling = _Filling(int(tokenizer.model_max_length) - 2)
        comma = self._tokenized(tokenizer, [","])[0]
        for index, segment in enumerate(segments):
            if index:
                filling.next()
            texts = [self.base.expand(text, self.component) for text, _ in segment]
            for ids, (_, weight) in zip(self._tokenized(tokenizer, texts), segment, strict=True):
                for word in self._words(tokenizer, ids):
                    filling.add(word, weight, comma=word == comma)
        return [self._framed(tokenizer, *zip(*part, strict=True)) for part in filling.end()]

    def empty(self) -> Chunk:
        """Return the chunk of no words."""
        return self._framed(self.base.tokenizer_of(self.component))

    @staticmethod
    def _tokenized(tokenizer: Any, texts: list[str]) -> list[list[int]]:
        """Tokenize each text by itself, whatever its length, without bos and eos."""
        if not texts:
            return []
        found = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return [list(ids) for ids in found]

    def _words(self, tokenizer: Any, ids: list[int]) -> list[list[int]]:
        """Part ids into what must stay together: single tokens, and learned words of several vectors.

        The vectors of a learned word are the tokens `word`, `word_1`, `word_2` …, one after the other.
        """
        if self.base.words is None:
            return [[token] for token in ids]
        own = next(row for row in self.base.family.text_encoders if row.component == self.component)
        known = len(getattr(self.base, own.tokenizer))
        words: list[list[int]] = []
        first = ""
        for token in ids:
            name = str(tokenizer.convert_ids_to_tokens(token)) if token >= known else ""
            if first and name == f"{first}_{len(words[-1])}":
                words[-1].append(token)
            else:
                words.append([token])
                first = name
        return words

    @staticmethod
    def _framed(tokenizer: Any, ids: Sequence[int] = (), weights: Sequence[float] = ()) -> Chunk:
        """Put bos before the ids, eos behind them, and fill up."""
        padding = int(tokenizer.model_max_length) - len(ids) - 2
        return Chunk(
            [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding],
            [1.0, *weights, 1.0, *[1.0] * padding],
        )


class _Filling:
    """Chunks being filled with (id, weight), `room` in each."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._done: list[list[tuple[int, float]]] = []
        self._now: list[tuple[int, float]] = []
        self._comma = _NOWHERE

    def next(self) -> None:
        """Begin another chunk."""
        self._done.append(self._now)
        self._now, self._comma = [], _NOWHERE

    def add(self, word: list[int], weight: float, *, comma: bool) -> None:
        """Put a word's tokens into the chunk, or into the next where it doesn't fit."""
        if comma:
            self._comma = len(self._now)
        elif len(self._now) == self._room and self._room - self._comma <= BACK_OFF:
            cut = self._comma + 1
            moved, self._now = self._now[cut:], self._now[:cut]
            self.next()
            self._now = moved
        if len(self._now) == self._room or len(self._now) + len(word) > self._room >= len(word):
            self.next()
        for token in word:
            if len(self._now) == self._room:  # a word longer than a chunk
                self.next()
            self._now.append((token, weight))

    def end(self) -> list[list[tuple[int, float]]]:
        """Return the chunks; the last may be short, and there is at least one."""
        if self._now or not self._done:
            self.next()
        return self._done
