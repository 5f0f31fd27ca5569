"""Captions as the UNet sees them: encoded anew where a text encoder learns, else once for all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch.nn import functional

from pipelines.base import Base
from pipelines.conditioning import Conditioning
from pipelines.prompts import count_chunks, encode_literal
from pipelines.prompts.encoding import Tokens, encode_numbers, tokenise_literal
from trainers.caching.store import Store, key_of, machine, weights_sha256
from trainers.events import TrainEvent

TEXTS = "texts"
"""The folder of embeddings below the cache folder."""

_VERSION = 1
_MEMORY_BYTES = 64 * 2**20
_NOTED_EVERY = 64


@dataclass(frozen=True, eq=False)
class Asked:
    """B captions on the device, as far as they need no gradient.

    tensors: "hidden", "pooled", "mask" as in Conditioning where count is 0; else token ids by text encoder
    and run of chunks, "rows" where captions repeat, "mask". count: chunks of captions still to be encoded.
    """

    tensors: Mapping[str, torch.Tensor]
    count: int


@dataclass(eq=False)
class PromptEncoder:
    """Captions of any length as conditionings; they are taken as they stand, without weights.

    trained: whether a text encoder or its words learn, so that embeddings carry gradients and change.
    folder: the cache folder where the captions that `prepare` is given are kept for later runs, keyed by
    the text encoders' weights and the caption (not others: shuffling makes another one each time); None,
    or where a text encoder has numbers that learn or words of an adapter: in memory only.

    Captions longer than the text encoder's length are encoded in chunks of it; the shorter ones beside them
    in a batch are filled up, and the fill is masked, so that the UNet sees of each what it would see of it
    alone.
    """

    base: Base
    trained: bool
    folder: Path | None = None
    _kept: OrderedDict[str, Conditioning] = field(default_factory=OrderedDict, repr=False)
    _lasting: set[str] = field(default_factory=set, repr=False)
    _encoded: int = field(default=0, repr=False)
    _bytes: int = field(default=0, repr=False)

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B captions: hidden (B, L, D), pooled (B, P) or None, mask (B, L) or None, on the device."""
        return self.tell(self.ask(prompts))

    def ask(self, prompts: Sequence[str]) -> Asked:
        """Do what needs the captions' text, and all of it where nothing learns."""
        unique = list(dict.fromkeys(prompts))
        rows = torch.tensor([unique.index(prompt) for prompt in prompts])
        if not self.trained:
            # One at a time: a batch's composition changes the last bits, and after a resume it is another.
            told = self._joined([self._one(prompt) for prompt in unique])
            parts = {"hidden": told.hidden, "pooled": told.pooled, "mask": told.mask}
            found = {name: part for name, part in parts.items() if part is not None}
            if len(unique) < len(prompts):
                found = {name: part[rows.to(part.device)] for name, part in found.items()}
            return Asked(found, 0)
        tokens = tokenise_literal(self.base, unique)
        found = {f"{name} {i}": ids for name, runs in tokens.ids.items() for i, ids in enumerate(runs)}
        if (mask := self._mask_of(tokens, unique)) is not None:
            found["mask"] = mask
        if len(unique) < len(prompts):
            found["rows"] = rows
        return Asked({name: part.to(self.base.device) for name, part in found.items()}, tokens.count)

    def tell(self, asked: Asked) -> Conditioning:
        """Do the rest, with gradients where the text encoders learn; asks nothing of the host."""
        given = asked.tensors
        if not asked.count:
            return Conditioning(given["hidden"], given.get("pooled"), given.get("mask"))
        ids: dict[str, list[torch.Tensor]] = {}
        for name, part in given.items():
            if name not in ("mask", "rows"):
                ids.setdefault(name.split(" ")[0], []).append(part)
        told = replace(encode_numbers(self.base, Tokens(ids, asked.count)), mask=given.get("mask"))
        if (rows := given.get("rows")) is None:
            return told
        parts = (told.hidden, told.pooled, told.mask)
        return Conditioning(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]

    def prepare(self, prompts: Sequence[str], total: int = 0) -> Iterator[TrainEvent]:
        """Encode captions ahead and keep them on disk, so that the text encoders rest later on.

        Yields a stage event now and then while something has to be encoded, and warnings at the end. Does
        nothing where embeddings change or aren't kept on disk. total: steps of the run.
        """
        if self.trained or self._store is None:
            return
        unique = list(dict.fromkeys(prompts))
        self._lasting |= set(unique)
        encoded = self._encoded
        for done, prompt in enumerate(unique, start=1):
            # Those that memory won't hold are read and checked when they are drawn.
            if self._bytes < _MEMORY_BYTES or not self._store.has(key_of(*self._made_by, prompt)):
                self._one(prompt)
            if self._encoded - encoded == _NOTED_EVERY or (done == len(unique) and self._encoded > encoded):
                encoded = self._encoded
                data = {"stage": "captions", "done": done, "of": len(unique)}
                message = f"captions {done}/{len(unique)}"
                yield TrainEvent(kind="stage", total=total, message=message, data=data)
        for note in self._store.notes("captions"):
            yield TrainEvent(kind="warning", total=total, message=note)
        self._store.tidy()

    @cached_property
    def _store(self) -> Store | None:
        if self.folder is None or self.trained or self.base.words is not None:
            return None
        encoders = self.base.text_encoders().values()
        if any(parameter.requires_grad for one in encoders for parameter in one.parameters()):
            return None
        return Store(self.folder / TEXTS)

    @cached_property
    def _made_by(self) -> list[str | int]:
        """What embeddings depend on beside the caption."""
        rows = self.base.family.text_encoders
        tokenizers = [_tokenizer_says(getattr(self.base, row.tokenizer)) for row in rows]
        weights = weights_sha256(self.base.component(row.component) for row in rows)
        return [_VERSION, self.base.family.id, weights, *tokenizers, *machine(self.base.device)]

    def _one(self, prompt: str) -> Conditioning:
        """Encode one caption at its own length, or take it from memory or disk."""
        if prompt in self._kept:
            self._kept.move_to_end(prompt)
            return self._kept[prompt]
        told = self._read(prompt)
        if told is None:
            with torch.no_grad():
                told = encode_literal(self.base, [prompt])
            self._encoded += 1
            self._write(prompt, told)
        self._kept[prompt] = told
        self._bytes += _bytes(told)
        while len(self._kept) > 1 and self._bytes > _MEMORY_BYTES:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])
        return told

    def _read(self, prompt: str) -> Conditioning | None:
        if self._store is None or prompt not in self._lasting:
            return None
        found = self._store.read(key_of(*self._made_by, prompt))
        if found is None:
            return None
        pooled = found.get("pooled")
        device = self.base.device
        return Conditioning(found["hidden"].to(device), None if pooled is None else pooled.to(device))

    def _write(self, prompt: str, told: Conditioning) -> None:
        if self._store is None or prompt not in self._lasting:
            return
        tensors = {"hidden": told.hidden}
        if told.pooled is not None:
            tensors["pooled"] = told.pooled
        self._store.write(key_of(*self._made_by, prompt), tensors)

    def _joined(self, parts: Sequence[Conditioning]) -> Conditioning:
        """Put captions behind each other, filled up to one length."""
        lengths = [part.hidden.shape[1] for part in parts]
        longest = max(lengths)
        filled = [functional.pad(part.hidden, (0, 0, 0, longest - part.hidden.shape[1])) for part in parts]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(
            torch.cat(filled), torch.cat(pooled) if pooled else None, _mask(lengths, self.base.device)
        )

    def _mask_of(self, tokens: Tokens, prompts: Sequence[str]) -> torch.Tensor | None:
        """Mask what captions that are encoded together are filled up with."""
        if tokens.count == 1:
            return None
        chunk = int(getattr(self.base, self.base.family.text_encoders[0].tokenizer).model_max_length)
        lengths = [chunk * count_chunks(self.base, [prompt]) for prompt in prompts]
        return _mask(lengths, self.base.device)


def _mask(lengths: Sequence[int], device: torch.device) -> torch.Tensor | None:
    """Return which positions belong to captions of these lengths, bool (B, L); None: all of them."""
    if len(set(lengths)) == 1:
        return None
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]


def _bytes(told: Conditioning) -> int:
    return sum(part.nbytes for part in (told.hidden, told.pooled) if part is not None)


def _tokenizer_says(tokenizer: object) -> str:
    """Return a tokenizer's vocabulary, merges and special tokens, hashed."""
    described = tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    return key_of(described, tokenizer.model_max_length, tokenizer.pad_token)  # type: ignore[attr-defined]
