"""Several adapters at chosen weights, in one base: W = W₀ + Σ wᵢ·ΔWᵢ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType

import numpy as np
import torch

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.errors import AdapterError, nearest
from pipelines.families import block_of
from pipelines.mixing.attached import Attached
from pipelines.mixing.fused import Fused, fuse
from pipelines.mixing.route import Route, check_route, choose_route
from pipelines.mixing.slots import contributions, own_value
from pipelines.mixing.unfused import Unfused, unfuse
from pipelines.mixing.weights import MAX_WEIGHT, MIN_WEIGHT, Weight, Weights, resolve
from pipelines.words import LearnedWords

__all__ = ["MAX_WEIGHT", "MIN_WEIGHT", "Mixer", "Weight", "Weights"]

_OFF = Weights(unet=0.0, text=0.0)


class Mixer:
    """Holds adapters against one base and puts their weighted sum into it.

    By the fused route the base's weights are kept and each `set` recomputes the mixed ones from them,
    in place, so that moves don't add up errors, and at all zero the base is there again bit for bit.
    Only parameters that some adapter reaches are copied. By the unfused route, for quantised bases and
    where the copy doesn't fit, the layers add what the adapters make of their input. What works beside the
    weights (bottlenecks, prefixes) does so by hooks on either route. Words that adapters bring are understood
    in prompts while their text weight isn't 0 (`base.words`). As a context manager it restores the base at
    the end.

    While a mixer holds adapters, nothing else may change the base's weights; a second mixer that
    tries is refused.
    """

    def __init__(self, base: Base, route: Route = "auto") -> None:
        """route: "fused", "unfused", or "auto" for fused where that can be.

        Raises: AdapterError for another route.
        """
        check_route(route)
        self.base = base
        self._asked = route
        self._reason = "there are no adapters yet"
        self._adapters: dict[str, Adapter] = {}
        self._settings: dict[str, Weights] = {}
        self._blocks = tuple(dict.fromkeys(block_of(module) for module in base.weighted()))
        self._encoders = frozenset(base.text_encoders())
        self._engine: Fused | Unfused = fuse(base, {}, 0, self._blocks)
        self._words = LearnedWords(base, {})
        self._attached = Attached(base, {}, self._blocks)
        self._progress: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters held, in the order they came."""
        return tuple(self._adapters)

    @property
    def weights(self) -> dict[str, tuple[float, float]]:
        """The (UNet, text encoder) weights that were set, by adapter name."""
        return {name: weights.pair for name, weights in self._settings.items()}

    @property
    def settings(self) -> dict[str, Weights]:
        """All that was set, by adapter name."""
        return dict(self._settings)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters held, by name."""
        return dict(self._adapters)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names that `Weights.blocks` may hold with this base."""
        return self._blocks

    @property
    def route(self) -> str:
        """The route taken now: "fused" or "unfused"."""
        return self._engine.name

    @property
    def reason(self) -> str:
        """Why that route is taken, in words."""
        return self._reason

    @property
    def kept_bytes(self) -> int:
        """Bytes of the base's own weights, kept beside the mixed ones."""
        return self._engine.kept_bytes

    @property
    def factor_bytes(self) -> int:
        """Bytes of the adapters' tensors, with the room that their products need."""
        return self._engine.factor_bytes + self._attached.nbytes

    def add(self, name: str, adapter: Adapter) -> None:
        """Take in an adapter at weight 0; an adapter of the same name is replaced, at weight 0 too.

        Raises: AdapterError when it doesn't fit the base; nothing changes then.
        """
        if self.base.holder not in (None, self):
            raise AdapterError(f"another mixer holds base {self.base.ref!r}; restore it first")
        adapter.check(self.base)
        self._rebuild({**self._adapters, name: adapter}, {**self._settings, name: _OFF})

    def remove(self, name: str) -> None:
        """Let go of an adapter; the others keep their weights. Raises: AdapterError if unknown."""
        self._known([name])
        kept = {key: value for key, value in self._adapters.items() if key != name}
        self._rebuild(kept, {key: value for key, value in self._settings.items() if key != name})

    def set(self, weights: Mapping[str, Weight]) -> None:
        """Write the mix, whole whatever the denoising step. An adapter that isn't named gets 0.

        weights: by name, one number, (UNet, text encoders), or `Weights`; each comes to −2 to 3 everywhere.
        Raises: AdapterError for an unknown name or block or a weight out of range. After any error the mix
        is as it was.
        """
        self._known(weights)
        given = {name: resolve(name, w, self._blocks, self._encoders) for name, w in weights.items()}
        self._move({name: given.get(name, _OFF) for name in self._adapters}, None)

    def at(self, step: int, total: int) -> None:
        """Write the UNet's weights as they are at a denoising step, 0 … total − 1, if they differ."""
        if not all(weights.steady for weights in self._settings.values()):
            self._move(self._settings, step / total)

    def rest(self) -> None:
        """Write the weights as they were set, after a denoising."""
        if self._progress is not None:
            self._move(self._settings, None)

    def restore(self) -> None:
        """Give the base back as it was, bit for bit, and let go of every adapter."""
        if self._adapters:
            self._rebuild({}, {})

    def __enter__(self) -> Mixer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def _known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._adapters:
                raise AdapterError(f"no adapter {name!r} in the mix{nearest(name, self._adapters)}")

    def _values(self, progress: float | None) -> np.ndarray:
        """The table of weights, a row per adapter and a column per block, as one vector."""
        rows = [weights.row(self._blocks, self._encoders, progress) for weights in self._settings.values()]
        return np.array(rows, dtype=np.float32).reshape(-1)

    def _move(self, settings: dict[str, Weights], progress: float | None) -> None:
        """Write other weights, or after an error those from before."""
        before, self._settings = self._settings, settings
        try:
            self._write(progress)
        except BaseException:
            self._settings = before
            with suppress(Exception):  # what comes next writes everything then
                self._write(self._progress)
            raise

    def _write(self, progress: float | None) -> None:
        values = self._values(progress)
        with torch.no_grad():
            self._engine.write(values)
            self._attached.set(values)
            if progress is None:
                self._write_words(values)
        self._progress = progress

    def _write_words(self, values: np.ndarray) -> None:
        """Put the adapters' words in use at their text weights."""
        if not any(adapter.tokens for adapter in self._adapters.values()):
            return
        columns = {encoder: self._blocks.index(encoder) for encoder in self._encoders}
        table = values.reshape(len(self._adapters), -1)
        self._words.set(
            {
                name: {encoder: float(row[column]) for encoder, column in columns.items()}
                for name, row in zip(self._adapters, table, strict=True)
            }
        )
        self.base.words = self._words if self._words.active else None

    def _rebuild(self, adapters: dict[str, Adapter], settings: dict[str, Weights]) -> None:
        """Let the base hold `adapters` at the weights `settings`.

        What is new is made before what was is let go, so a failure (memory) changes nothing.
        """
        before = self._engine
        state = self._adapters, self._settings, self._reason, self._words, self._attached
        with torch.no_grad():
            engine, reason = self._make(adapters)
            words = LearnedWords(self.base, {name: adapter.tokens for name, adapter in adapters.items()})
            attached = Attached(self.base, adapters, self._blocks)
            self._drop_hooks()
            self._adapters, self._settings, self._reason = adapters, settings, reason
            self._words, self._attached = words, attached
            try:
                before.remove({slot.key for slot in engine.slots})
                engine.install()
                self._engine = engine
                self._write(None)
            except BaseException:
                engine.undo()
                self._drop_hooks()
                self._engine = before
                self._adapters, self._settings, self._reason, self._words, self._attached = state
                before.forget()
                before.install()
                self._write(self._progress)
                raise
        self.base.holder = self if adapters else None

    def _drop_hooks(self) -> None:
        self._attached.remove()
        self._words.remove()
        self.base.words = None

    def _make(self, adapters: Mapping[str, Adapter]) -> tuple[Fused | Unfused, str]:
        """Return the engine for `adapters` and why it is that one, without touching the base."""
        previous = self._engine.fused
        originals, dense = previous.originals(), previous.dense()
        places = {
            name: place
            for place, (name, adapter) in enumerate(self._adapters.items())
            if adapters.get(name) is adapter
        }
        found = contributions(
            self.base,
            adapters,
            original=lambda slot: originals[slot.key] if slot.key in originals else own_value(slot),
            known=lambda slot, name: dense.get((slot.key, places.get(name, -1))),
            held=places,
        )
        if not adapters:
            return fuse(self.base, {}, 0, self._blocks), "there are no adapters yet"
        route, reason = choose_route(self.base, self._asked, found, set(originals))
        make = fuse if route == "fused" else unfuse
        return make(self.base, found, len(adapters), self._blocks, previous), reason
