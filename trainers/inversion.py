"""Learned words: vectors in the place of a word that the text encoders don't know, alone or before a LoRA.

The trigger itself is the word. It becomes `token_vectors` tokens of a copy of each tokenizer; a hook on each
text encoder's token embedding answers them with parameters in training, so that neither tokenizers nor
embedding matrices change, and the base knows the word only while it is `installed`.

Source: textual inversion, Gal et al. 2022, https://arxiv.org/abs/2208.01618, section 4 (equation 2); pivotal
tuning, Roich et al. 2021, https://arxiv.org/abs/2106.05744, section 3, for diffusion as in
https://github.com/cloneofsimo/lora: the word is learned first, then held while the weights learn around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from pipelines.errors import ConfigError
from pipelines.words import WordTable, knowing, token_names

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from pipelines.base import Base

PREFIX = "tokens."
"""What the names of a word's parameters begin with; the text encoder and the word follow."""


class WordSettings(Protocol):
    """The settings of a learned word: those of `AdapterConfig`.

    token_vectors: vectors per text encoder. token_init: words whose embeddings they start as; empty: drawn
    like the vocabulary's.
    """

    @property
    def token_vectors(self) -> int:
        """Vectors per text encoder."""

    @property
    def token_init(self) -> str:
        """Words whose embeddings they start as."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What learns in a step, and where that step stands in its part of the run.

    words, weights: whether the learned words do, and everything else. step, total: of this part, for the
    learning rate's schedule, which begins anew with each.
    """

    words: bool
    weights: bool
    step: int
    total: int


def phase(step: int, total: int, alone: float) -> Phase:
    """Return what learns in step `step` (from 0) of `total`: a pure function of the three.

    alone: share of the run, [0, 1], in which only the words learn; after it they are held and the weights
    learn. 0: both learn all the time. 1: only words. Between them each part has one step at least, in a run
    of two or more.
    """
    if alone <= 0.0:
        return Phase(words=True, weights=True, step=step, total=total)
    first = total if alone >= 1.0 else min(max(1, round(alone * total)), max(1, total - 1))
    if step < first:
        return Phase(words=True, weights=False, step=step, total=first)
    return Phase(words=False, weights=True, step=step - first, total=total - first)


class Words:
    """The word in training inside a base; nothing of the base is changed before `install`.

    parameters: fp32 (n, width) on the base's device, by "tokens.<text encoder>.<word>".
    """

    def __init__(self, base: Base, word: str, settings: WordSettings, seed: int = 0) -> None:
        """Begin with `token_init`, or drawn from `seed`.

        Raises: ConfigError for a word with spaces or that a tokenizer knows as one token, or for a
        `token_init` of more tokens than there are vectors.
        """
        self.word, self.parameters = word, dict[str, nn.Parameter]()
        self._base = base
        self._tables: dict[str, WordTable] = {}
        self._tokenizers: dict[str, CLIPTokenizer] = {}
        generator = torch.Generator().manual_seed(seed)
        names = [word, *(f"{word}_{index}" for index in range(1, settings.token_vectors))]
        own = {row.component: getattr(base, row.tokenizer) for row in base.family.text_encoders}
        for tokenizer in own.values():
            _check(word, names, tokenizer)
        for component, tokenizer in own.items():
            matrix = _embedding(base, component).weight.detach()
            start = _start(matrix, tokenizer, settings, generator)
            parameter = nn.Parameter(start.to(base.device))
            self.parameters[f"{PREFIX}{component}.{word}"] = parameter
            grown = knowing(tokenizer, names)
            ids = torch.tensor([int(grown.convert_tokens_to_ids(name)) for name in names], device=base.device)
            spelled = {word: token_names(word, parameter)}
            self._tokenizers[component] = grown
            self._tables[component] = WordTable(spelled, ids, parameter)

    def install(self) -> None:
        """Let the base's prompts know the word."""
        assert self._base.words is None, "the base has learned words in use already"
        for component, table in self._tables.items():
            table.hook(_embedding(self._base, component))
        self._base.words = self

    def remove(self) -> None:
        """Leave the base as it was."""
        for table in self._tables.values():
            table.unhook()
        self._base.words = None

    @contextmanager
    def installed(self) -> Iterator[Words]:
        """`install`, and `remove` whatever happens."""
        self.install()
        try:
            yield self
        finally:
            self.remove()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let prompts mean what they mean to the base alone for a while."""
        self.remove()
        try:
            yield
        finally:
            self.install()

    def expand(self, prompt: str, component: str) -> str:
        """Put behind the word the names of its further vectors, so that each vector is one token."""
        return self._tables[component].expand(prompt)

    def tokenizer(self, component: str) -> CLIPTokenizer:
        """Return a copy of a text encoder's tokenizer that knows the word."""
        return self._tokenizers[component]

    def check_captions(self, captions: Iterable[str]) -> None:
        """Make sure that the word stands by itself in one of `captions` at least.

        Raises: ConfigError, since nothing could be learned otherwise.
        """
        table = next(iter(self._tables.values()))
        if not any(table.found_in(caption) for caption in captions):
            raise ConfigError(
                f"data.trigger: no caption holds {self.word!r} as a word by itself, so that nothing could be "
                "learned; write it into the captions"
            )

    def tokens(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return what was learned as `Adapter.tokens` has it: word → text encoder → (n, width), a copy."""
        found = {
            name.removeprefix(PREFIX).split(".", 1)[0]: parameter.detach().cpu().clone()
            for name, parameter in self.parameters.items()
        }
        return {self.word: found}


def freeze(parameters: Mapping[str, nn.Parameter], now: Phase) -> list[str]:
    """Let gradients reach just those parameters that learn in a phase; return the names that stop learning.

    The others get none, and an optimizer leaves what has no gradient as it is, decay and moments too.
    """
    stopped = []
    for name, parameter in parameters.items():
        learns = now.words if name.startswith(PREFIX) else now.weights
        if parameter.requires_grad != learns:
            parameter.requires_grad_(learns)
            parameter.grad = None
            if not learns:
                stopped.append(name)
    return stopped


def _check(word: str, names: list[str], tokenizer: CLIPTokenizer) -> None:
    """Refuse a word that can't be learned. Raises: ConfigError."""
    if not word or any(letter.isspace() for letter in word):
        raise ConfigError(
            f"data.trigger: got {word!r}, expected one word without spaces where a word is learned; "
            f"write {''.join(word.split()) or 'zuv'!r}"
        )
    known = tokenizer.get_vocab()
    for name in names:
        if name in known or len(tokenizer.tokenize(name)) == 1:
            raise ConfigError(
                f"data.trigger: {name!r} is a word that the base's tokenizer knows already, and its meaning "
                f"would be lost; choose one that means nothing, for instance {'<' + word + '>'!r}"
            )


def _start(
    matrix: torch.Tensor, tokenizer: CLIPTokenizer, settings: WordSettings, generator: torch.Generator
) -> torch.Tensor:
    """The vectors at the start, fp32 (n, width) on the CPU; matrix: of all tokens, (V, width)."""
    count = settings.token_vectors
    if not settings.token_init:
        values = matrix.float().cpu()
        drawn = torch.randn((count, values.shape[1]), generator=generator)
        return values.mean(dim=0) + values.std(dim=0) * drawn
    ids = tokenizer(settings.token_init, add_special_tokens=False).input_ids
    if len(ids) > count:
        raise ConfigError(
            f"adapter.token_init: {settings.token_init!r} is {len(ids)} tokens, expected at most "
            f"adapter.token_vectors, {count}; shorten it or give more vectors"
        )
    chosen = [ids[index % len(ids)] for index in range(count)]
    return matrix[torch.tensor(chosen, device=matrix.device)].float().cpu()


def _embedding(base: Base, component: str) -> Any:
    """The token embedding of a text encoder."""
    return base.component(component).get_input_embeddings()  # type: ignore[operator]
