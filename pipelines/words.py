"""Learned words (textual inversion) in a base's prompts, without a change to its tokenizers or weights."""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipelines.base import Base
from pipelines.errors import AdapterError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

Tokens = Mapping[str, Mapping[str, torch.Tensor]]
"""token → text encoder → (n, width)."""

_KEPT_SETS = 4


class LearnedWords:
    """The words that adapters of one mix bring.

    A word of n vectors becomes n tokens, `word`, `word_1`, …, in a copy of each tokenizer; a hook on the
    text encoder's token embedding answers them with the vectors times the adapter's text weight. Words of
    adapters at weight 0 in a text encoder aren't there at all: its tokenizer and prompts are then its own.
    Large and small letters are the same, as they are to CLIP's tokenizers, and a word within another word
    isn't taken.

    Source: Gal et al. 2022, https://arxiv.org/abs/2208.01618; token names as in diffusers.
    """

    def __init__(self, base: Base, tokens: Mapping[str, Tokens]) -> None:
        """tokens: what each adapter brings, by the adapter's name in the mix. Changes nothing yet.

        Raises: AdapterError for a word that is empty or holds spaces, that a tokenizer knows already, or
        that two adapters bring.
        """
        self._base = base
        self._tokens = {name: brought for name, brought in tokens.items() if brought}
        self._own = {row.component: getattr(base, row.tokenizer) for row in base.family.text_encoders}
        if self._tokens:
            self._check()
        self._tables: dict[str, WordTable] = {}
        self._sets: dict[tuple[tuple[str, ...], ...], dict[str, CLIPTokenizer]] = {}
        self._used: dict[str, CLIPTokenizer] = {}
        self._weights: dict[str, dict[str, float]] = {}

    @property
    def active(self) -> bool:
        """Whether any word is in use."""
        return bool(self._tables)

    def set(self, weights: Mapping[str, Mapping[str, float]]) -> None:
        """Put the words in use at these weights, adapter → text encoder → weight, and install the hooks."""
        acting = {name: {part: w for part, w in weights[name].items() if w} for name in self._tokens}
        wanted = {name: parts for name, parts in acting.items() if parts}
        if wanted == self._weights:
            return
        where = tuple((name, *parts) for name, parts in wanted.items())
        tokenizers = self._sets.pop(where, None) or self._tokenizers(wanted)
        self._sets[where] = tokenizers  # the latest last, so that the oldest is dropped
        while len(self._sets) > _KEPT_SETS:
            del self._sets[next(iter(self._sets))]
        tables = {
            component: self._table(component, tokenizer, wanted)
            for component, tokenizer in tokenizers.items()
        }
        try:
            for component, table in tables.items():
                table.hook(self._base.component(component).get_input_embeddings())  # type: ignore[operator]
        except BaseException:
            for table in tables.values():
                table.unhook()
            raise
        self.remove()
        self._weights, self._tables, self._used = wanted, tables, tokenizers

    def remove(self) -> None:
        """Take the hooks off; no word is in use then."""
        for table in self._tables.values():
            table.unhook()
        self._tables, self._weights, self._used = {}, {}, {}

    def expand(self, prompt: str, component: str) -> str:
        """Put behind every word the names of its further vectors, so that each vector is one token."""
        table = self._tables.get(component)
        return prompt if table is None else table.expand(prompt)

    def tokenizer(self, component: str) -> CLIPTokenizer:
        """Return a text encoder's tokenizer, with the words in use."""
        return self._used.get(component, self._own[component])

    def _check(self) -> None:
        for adapter, word in (
            (adapter, word) for adapter, brought in self._tokens.items() for word in brought
        ):
            if not word or any(letter.isspace() for letter in word):
                raise AdapterError(
                    f"adapter {adapter!r} brings the word {word!r}; expected one without spaces, so give the "
                    "word another name in its file"
                )
        for component, tokenizer in self._own.items():
            known, owners = tokenizer.get_vocab(), dict[str, str]()
            for adapter, brought in self._tokens.items():
                for token in (t for word, v in brought.items() for t in token_names(word, v.get(component))):
                    same = _normal(token)
                    if token in known or same in known:
                        raise AdapterError(
                            f"adapter {adapter!r} brings the word {token!r}, which the base's tokenizer "
                            "knows already; give the word another name in its file"
                        )
                    if owners.get(same) == adapter:
                        raise AdapterError(
                            f"adapter {adapter!r} brings the word {token!r} twice, large and small letters "
                            "being the same; give one of them another name in its file"
                        )
                    if same in owners:
                        raise AdapterError(
                            f"adapters {owners[same]!r} and {adapter!r} both bring the word {token!r}; "
                            "remove one of them or give the word another name in its file"
                        )
                    owners[same] = adapter

    def _tokenizers(self, wanted: Mapping[str, Mapping[str, float]]) -> dict[str, CLIPTokenizer]:
        """Copies of the tokenizers that know the words of the adapters `wanted`, where these have any."""
        found = {}
        for component, own in self._own.items():
            names = [
                name
                for adapter, parts in wanted.items()
                if component in parts
                for word, vectors in self._tokens[adapter].items()
                for name in token_names(word, vectors.get(component))
            ]
            if names:
                found[component] = knowing(own, names)
        return found

    def _table(
        self, component: str, tokenizer: CLIPTokenizer, weights: Mapping[str, Mapping[str, float]]
    ) -> WordTable:
        words, ids, rows = {}, [], []
        for adapter, per_component in weights.items():
            if component not in per_component:
                continue
            for word, vectors in self._tokens[adapter].items():
                if (own := vectors.get(component)) is not None:
                    names = token_names(word, own)
                    words[word] = names
                    ids += [int(tokenizer.convert_tokens_to_ids(name)) for name in names]
                    rows.append(own.detach().to(torch.float32) * per_component[component])
        matrix = torch.cat(rows).to(self._base.device, self._base.dtype)
        return WordTable(words, torch.tensor(ids, device=self._base.device), matrix)


def token_names(word: str, vectors: torch.Tensor | None) -> list[str]:
    """The tokens of a word: `word`, `word_1`, …, one per vector."""
    count = 0 if vectors is None else len(vectors)
    return [word if index == 0 else f"{word}_{index}" for index in range(count)]


def knowing(tokenizer: CLIPTokenizer, names: Sequence[str]) -> CLIPTokenizer:
    """Copy a tokenizer and let the copy know `names` as tokens; the ids follow its own, in their order."""
    from tokenizers import AddedToken

    grown = copy.deepcopy(tokenizer)
    grown.add_tokens([AddedToken(name, single_word=_whole(name)) for name in names])
    return grown


def _normal(text: str) -> str:
    """The form in which CLIP's tokenizers compare words."""
    return unicodedata.normalize("NFC", text).lower()


def _whole(word: str) -> bool:
    """Whether a word counts only where no letter, digit or _ stands next to it; <fox> bounds itself."""
    return re.fullmatch(r"\w(.*\w)?", word) is not None


class WordTable:
    """The words in use with one text encoder.

    words: their tokens. ids: (N,) of the tokens, one after the other. vectors: (N, width), which may be in
    training: they are asked for anew each time, and gradients flow to them.
    """

    def __init__(self, words: Mapping[str, list[str]], ids: torch.Tensor, vectors: torch.Tensor) -> None:
        self._vectors, self._first = vectors, int(ids.min())
        assert torch.equal(ids, torch.arange(self._first, self._first + len(ids), device=ids.device))
        self._spelled = {_normal(name): name for names in words.values() for name in names}
        self._spelled |= {_normal(word): " ".join(names) for word, names in words.items()}
        # The longest first, so that a word within another isn't taken for itself.
        longest = sorted(self._spelled, key=len, reverse=True)
        patterns = (rf"(?<!\w){re.escape(w)}(?!\w)" if _whole(w) else re.escape(w) for w in longest)
        self._any = re.compile("|".join(patterns), re.IGNORECASE)
        self._handles: list[Any] = []
        self._asked: torch.Tensor | None = None

    def expand(self, prompt: str) -> str:
        """Spell each word out as its tokens."""
        prompt = unicodedata.normalize("NFC", prompt)
        return self._any.sub(lambda found: self._spelled.get(_normal(found[0]), found[0]), prompt)

    def found_in(self, prompt: str) -> bool:
        """Whether a prompt holds any of the words by itself."""
        return self._any.search(unicodedata.normalize("NFC", prompt)) is not None

    def hook(self, embedding: nn.Module) -> None:
        """Let a token embedding answer the words' ids."""
        self._handles.append(embedding.register_forward_pre_hook(self._known_only))
        self._handles.append(embedding.register_forward_hook(self._answer))

    def unhook(self) -> None:
        """Leave the embedding as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _known_only(self, embedding: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Ask the embedding for another id where it hasn't that one."""
        self._asked = inputs[0]
        return (torch.where(inputs[0] < self._first, inputs[0], 0), *inputs[1:])

    def _answer(self, embedding: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Put the learned vectors where their ids were asked for: (B, L, width)."""
        ids, self._asked = self._asked, None
        assert ids is not None
        learned = self._vectors.to(output.dtype)[(ids - self._first).clamp(min=0)]
        return torch.where((ids >= self._first)[..., None], learned, output)
