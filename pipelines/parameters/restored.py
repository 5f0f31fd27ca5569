"""What could be taken from a picture's text, in Pigment's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.generation import GenerationConfig
from pipelines.samplers import sampler_named

Source = Literal["pigment", "a1111", "comfyui"]

MAX_TEXT = 1_000_000
"""Characters of a text that is looked at."""
_KEPT = 2000
_INTEGER = re.compile(r"[+-]?\d{1,24}(\.0*)?")
_NATURAL = ("", "automatic", "uniform", "normal", "default", "discrete", "ddim", "ddim_uniform", "none")
_SHORT_KARRAS = re.compile(r"(?i)(?<=\w)_ka?$")


@dataclass(frozen=True)
class BaseHint:
    """What a picture says of its base. name: a file's, without ending. hash: first digits of its SHA-256,
    or an older checksum. vae: a VAE of its own."""

    name: str | None = None
    hash: str | None = None
    vae: str | None = None


@dataclass(frozen=True)
class AdapterHint:
    """An adapter that a picture was made with. hash: first digits of a checksum; None: not said.

    weight: on the UNet. text_weight: on the text encoders; None: as `weight`.
    """

    name: str
    hash: str | None = None
    weight: float = 1.0
    text_weight: float | None = None


@dataclass(frozen=True)
class Restored:
    """What a picture says about how it was made.

    fields: of GenerationConfig, each within its bounds. adapters: those named, to be found in a library.
    left_over: what has no place here, or a value that can't be used, by its name there. record: Pigment's
    own settings, whole; empty of other pictures.
    """

    fields: dict[str, Any]
    base: BaseHint
    adapters: tuple[AdapterHint, ...]
    left_over: dict[str, str]
    source: Source
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Gathered:
    """A `Restored` in the making."""

    source: Source
    fields: dict[str, Any] = field(default_factory=dict)
    adapters: list[AdapterHint] = field(default_factory=list)
    left_over: dict[str, str] = field(default_factory=dict)
    base: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: Any, key: str) -> bool:
        """Set a field, or leave `value` over under `key` where GenerationConfig can't take it."""
        if value is not None and name in GenerationConfig.model_fields:
            try:
                taken = GenerationConfig.model_validate({"prompt": "", name: value})
            except ValueError:
                pass
            else:
                self.fields[name] = getattr(taken, name)
                return True
        self.leave(key, value)
        return False

    def put_sampler(self, name: str, schedule: str, key: str) -> None:
        """Set the sampler of these names, or leave them over."""
        found = find_sampler(name, schedule)
        if found is None:
            self.leave(key, name)
            if schedule:
                self.leave("Schedule type", schedule)
            return
        row, whole = found
        self.put("sampler", row, key)
        if not whole:
            self.leave("Schedule type", schedule)

    def leave(self, key: str, value: Any) -> None:
        """Keep what has no place."""
        text = "" if value is None else str(value)
        self.left_over[key[:100]] = text if len(text) <= _KEPT else text[:_KEPT] + "…"

    def done(self) -> Restored:
        """Return what was gathered."""
        known = {name: value for name, value in self.base.items() if value}
        return Restored(
            self.fields, BaseHint(**known), tuple(self.adapters), dict(self.left_over), self.source
        )


def find_sampler(name: str, schedule: str = "") -> tuple[str, bool] | None:
    """Return the sampler's key, and whether `schedule` is in it; None for an unknown sampler.

    name: in any spelling, with or without its schedule ("DPM++ 2M Karras", "k_dpmpp_2m_ka", "dpmpp_2m_k").
    schedule: named beside it, or "" .
    """
    name, schedule = name.strip(), schedule.strip()
    own = sampler_named(name)
    if own is None and _SHORT_KARRAS.search(name):
        own = sampler_named(_SHORT_KARRAS.sub(" karras", name))
    if not schedule:
        return None if own is None else (own, True)
    if schedule.casefold() == "automatic":
        own = sampler_named(f"{name} Automatic") or own
    elif (both := sampler_named(f"{name} {schedule}")) is not None:
        return both, True
    if own is None:
        return None
    named_twice = name.casefold().endswith(schedule.casefold())
    return own, named_twice or schedule.casefold() in _NATURAL


def integer(text: str) -> int | None:
    """Return a whole number, or None."""
    text = text.strip()
    return int(text.split(".")[0]) if _INTEGER.fullmatch(text) else None


def number(text: str) -> float | None:
    """Return a number, or None."""
    try:
        return float(text) if len(text) <= 40 else None
    except ValueError:
        return None


def stem(name: str) -> str:
    """Return a file's name without folders and ending: "sd/Some v1.5.safetensors" is "Some v1.5"."""
    last = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"(?i)\.(safetensors|ckpt|pt|pth|bin|sft)$", "", last)
