"""The axes of a grid: which setting varies, how its values are written, what each makes of the settings.

Every number among the fields of `GenerationConfig` is an axis by itself; the others are rows here.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.generation import AdapterUse, GenerationConfig
from pipelines.samplers import SAMPLERS, sampler_named

MAX_VALUES = 64
_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Spot:
    """What one picture of a grid is drawn with. base: a base's name; None is the one that is loaded."""

    config: GenerationConfig
    base: str | None = None


@dataclass(frozen=True, kw_only=True)
class AxisKind:
    """A setting that a grid can vary.

    label: for people. read: a list of values out of text. apply: (spot, axis, value) → another spot.
    show: a value on the picture. cost: what a change of it costs; the dearest changes least often.
    target: whether the axis may name an adapter.
    """

    label: str
    description: str
    read: Callable[[str], list[Any]]
    apply: Callable[[Spot, Axis, Any], Spot]
    show: Callable[[Any], str]
    cost: int = 0
    target: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a grid. kind: a key of AXES. target: the adapter meant, None for all."""

    kind: str
    values: tuple[Any, ...]
    target: str | None = None

    def apply(self, spot: Spot, value: Any) -> Spot:
        """Return the spot with this axis' setting at `value`. Raises: ConfigError, AdapterError."""
        return AXES[self.kind].apply(spot, self, value)

    def label(self, value: Any) -> str:
        """A value as it stands beside the pictures."""
        row = AXES[self.kind]
        shown = row.show(value)
        return f"{self.target or row.label} {shown}" if row.label else shown

    def as_data(self) -> dict[str, Any]:
        """The axis as JSON has it."""
        return {"axis": self.kind, "target": self.target, "values": list(self.values)}


def read_axis(text: str) -> Axis:
    """Read `NAME=VALUES` or `weight:ADAPTER=VALUES`.

    Values are a list (`1,3,7.5`), a range (`1-5` of whole numbers; `0:1:0.25` from, to, step, both ends
    in) or several of them; texts with a comma stand in quotes.
    Raises: ConfigError for an unknown axis, no or too many values, or values that aren't understood.
    """
    name, equals, values = text.partition("=")
    name, colon, target = name.strip().partition(":")
    name = _ALIASES.get(name.strip().casefold(), name.strip())
    if name not in AXES:
        raise ConfigError(f"unknown axis {name!r}{nearest(name, [*AXES, *_ALIASES])}")
    row = AXES[name]
    if colon and not row.target:
        raise ConfigError(
            f"axis {text!r} names an adapter, which {name!r} has no use for; write {name}=VALUES"
        )
    found = row.read(values) if equals else []
    if not found:
        raise ConfigError(f"axis {text!r} has no values; write {name}=VALUES, as {name}=…,…")
    if len(found) > MAX_VALUES:
        raise ConfigError(
            f"axis {name!r} has {len(found)} values, at most {MAX_VALUES} are drawn; give fewer"
        )
    return Axis(kind=name, values=tuple(found), target=target.strip() or None)


_RANGE = re.compile(r"(?P<first>\d+)\s*-\s*(?P<last>\d+)")


def _numbers(text: str, whole: bool) -> list[float]:
    """Read numbers and ranges of them. whole: they are integers, and `1-5` is a range."""
    found: list[float] = []
    for part in (part.strip() for part in text.split(",")):
        dash = _RANGE.fullmatch(part) if whole else None
        try:
            if dash is not None:
                found += _steps(int(dash["first"]), int(dash["last"]), 1, part)
            elif ":" in part:
                first, last, step = (float(number) for number in part.split(":"))
                found += _steps(first, last, step, part)
            elif part:
                found.append(float(part))
        except ValueError:
            kind = "5, 1-9 or 1:9:2" if whole else "0.5 or 0:1:0.25"
            raise ConfigError(f"{part!r} isn't understood as numbers; write {kind}") from None
    for number in found:
        if not math.isfinite(number) or (whole and number != int(number)):
            raise ConfigError(f"{number:g} is no {'whole ' if whole else ''}number; give one")
    return [int(number) if whole else number for number in found]


def _steps(first: float, last: float, step: float, shown: str) -> list[float]:
    """Numbers from `first` to `last`, both in. Raises: ConfigError where the step never gets there."""
    if not all(math.isfinite(number) for number in (first, last, step)) or step <= 0 or last < first:
        raise ConfigError(f"range {shown!r} leads nowhere; write FROM:TO:STEP, as 0:1:0.25")
    count = math.floor((last - first) / step + 1e-9) + 1
    if count > MAX_VALUES:
        raise ConfigError(f"range {shown!r} holds {count} values, at most {MAX_VALUES} are drawn")
    return [round(first + index * step, 9) for index in range(count)]


def _texts(text: str) -> list[str]:
    """Read texts between commas; one that holds a comma stands in double quotes."""
    return [part.strip() for row in csv.reader([text], skipinitialspace=True) for part in row]


def _samplers(text: str) -> list[str]:
    found = []
    for part in _texts(text):
        key = part if part in SAMPLERS else sampler_named(part)
        if key is None:
            raise ConfigError(f"unknown sampler {part!r}{nearest(part, SAMPLERS)}")
        found.append(key)
    return found


def changed(config: GenerationConfig, **fields: Any) -> GenerationConfig:
    """Return settings with other fields, checked. Raises: ConfigError in one line."""
    try:
        return GenerationConfig.model_validate({**config.model_dump(), **fields})
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        outer, *inner = mistake["loc"]
        title = GenerationConfig.model_fields[str(outer)].title or str(outer)
        where = "".join(f", {name}" for name in inner if isinstance(name, str))
        if mistake["type"] == "value_error":  # one of ours, which says everything
            raise ConfigError(str(mistake["ctx"]["error"])) from None
        wanted = str(mistake["msg"]).removeprefix("Input should be ").removeprefix("String should have ")
        shown = repr(mistake["input"])
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}… ({len(shown) - 2} characters)"
        raise ConfigError(f"{title}{where} is {shown}, expected {wanted}; change it") from None


def _set_field(spot: Spot, axis: Axis, value: Any) -> Spot:
    return replace(spot, config=changed(spot.config, **{axis.kind: value}))


def _set_base(spot: Spot, axis: Axis, value: str) -> Spot:
    return replace(spot, base=value)


def _replace_text(spot: Spot, axis: Axis, value: str) -> Spot:
    """Put `value` in the place of the axis' first value, wherever that stands in the prompts."""
    searched, config = axis.values[0], spot.config
    if searched not in config.prompt and searched not in config.negative_prompt:
        raise ConfigError(
            f"{searched!r} isn't in the prompt; the first of a prompt axis' values is the text that the "
            "others take the place of"
        )
    texts = (config.prompt.replace(searched, value), config.negative_prompt.replace(searched, value))
    return replace(spot, config=changed(config, prompt=texts[0], negative_prompt=texts[1]))


def _set_weight(spot: Spot, axis: Axis, value: float) -> Spot:
    """Put an adapter, or all, at another weight; the text encoders' keeps its proportion."""

    def at(use: AdapterUse) -> dict[str, Any]:
        text = None if use.text_weight is None else value * _share(use)
        return use.model_dump() | {"weight": value, "text_weight": text}

    return _with_uses(spot, axis, at)


def _set_text_weight(spot: Spot, axis: Axis, value: float) -> Spot:
    return _with_uses(spot, axis, lambda use: use.model_dump() | {"text_weight": value})


def _swap_adapter(spot: Spot, axis: Axis, value: str) -> Spot:
    """Give the weights of the axis' first adapter to the one called `value`; the axis' others are at 0."""
    uses = {use.name: use for use in spot.config.adapters}
    for name in axis.values:
        if name not in uses:
            raise AdapterError(f"no adapter {name!r} in the mix{nearest(name, uses)}")
    weights = uses[axis.values[0]].model_dump(exclude={"name", "sha256"})
    off: dict[str, Any] = {"weight": 0.0, "text_weight": None, "blocks": {}, "begin": 0.0, "end": 0.0}
    chosen = [
        use.model_dump() | (weights if name == value else off if name in axis.values else {})
        for name, use in uses.items()
    ]
    return replace(spot, config=changed(spot.config, adapters=chosen))


def _share(use: AdapterUse) -> float:
    return use.text_weight / use.weight if use.weight and use.text_weight is not None else 0.0


def _with_uses(spot: Spot, axis: Axis, at: Callable[[AdapterUse], dict[str, Any]]) -> Spot:
    uses = spot.config.adapters
    names = [use.name for use in uses]
    if not uses:
        raise ConfigError(f"a {axis.kind} axis needs an adapter in the mix; add one, as with --adapter NAME")
    if axis.target is not None and axis.target not in names:
        raise AdapterError(f"no adapter {axis.target!r} in the mix{nearest(axis.target, names)}")
    chosen = [at(use) if axis.target in (None, use.name) else use.model_dump() for use in uses]
    return replace(spot, config=changed(spot.config, adapters=chosen))


def _field_kinds() -> dict[str, AxisKind]:
    """An axis for every number of the settings, but those that change how many or how large."""
    kinds = {}
    for name, field in GenerationConfig.model_fields.items():
        options = set(getattr(field.annotation, "__args__", (field.annotation,))) - {type(None)}
        if name in _NO_AXES or len(options) != 1 or not options & {int, float}:
            continue
        whole = options == {int}
        kinds[name] = AxisKind(
            label=field.title or name,
            description=field.description or "",
            read=lambda text, whole=whole: _numbers(text, whole),  # type: ignore[misc]
            apply=_set_field,
            show=lambda value: f"{value:g}" if isinstance(value, float) else str(value),
        )
    return kinds


_NO_AXES = frozenset({"num_images", "batch_size", "width", "height", "hires_scale"})


def _shown_text(value: str) -> str:
    return value or "(nothing)"


def _shown_number(value: float) -> str:
    return f"{value:g}"


AXES: dict[str, AxisKind] = {
    "weight": AxisKind(
        label="All", description="An adapter's weight, or with no name that of all.", target=True, cost=1,
        read=lambda text: _numbers(text, whole=False), apply=_set_weight, show=_shown_number,
    ),
    "text_weight": AxisKind(
        label="Text", description="An adapter's weight on the text encoders.", target=True, cost=1,
        read=lambda text: _numbers(text, whole=False), apply=_set_text_weight, show=_shown_number,
    ),
    "adapter": AxisKind(
        label="", description="An adapter of the mix, and others of it that take its place and weights.",
        read=_texts, apply=_swap_adapter, show=str,
    ),
    "prompt": AxisKind(
        label="", description="The first text, and what takes its place in the prompts.",
        read=_texts, apply=_replace_text, show=_shown_text,
    ),
    "sampler": AxisKind(
        label="", description="Samplers by any of their names.", read=_samplers, apply=_set_field,
        show=lambda value: SAMPLERS[value].label,
    ),
    "base": AxisKind(
        label="", description="Bases: pocket, folders, files.", cost=2, read=_texts, apply=_set_base,
        show=lambda value: re.split(r"[/\\]", value.rstrip("/\\"))[-1].removesuffix(".safetensors"),
    ),
    **_field_kinds(),
}  # fmt: skip
_ALIASES = {
    "steps": "num_inference_steps", "guidance": "guidance_scale", "cfg": "guidance_scale", "model": "base",
    "checkpoint": "base", "denoising": "strength", "s/r": "prompt", "weights": "weight", "seeds": "seed",
}  # fmt: skip


def spots(start: Spot, axes: Sequence[Axis]) -> dict[tuple[int, ...], Spot]:
    """Return every combination of the axes' values by its places along them, dear changes least often.

    Raises: ConfigError or AdapterError for a value that can't be, before anything is drawn.
    """
    order = sorted(range(len(axes)), key=lambda index: -AXES[axes[index].kind].cost)
    found: dict[tuple[int, ...], Spot] = {(): start}
    for index in order:
        axis = axes[index]
        found = {
            (*place, number): axis.apply(spot, value)
            for place, spot in found.items()
            for number, value in enumerate(axis.values)
        }
    back = [order.index(index) for index in range(len(axes))]
    return {tuple(place[index] for index in back): spot for place, spot in found.items()}
