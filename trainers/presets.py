"""Presets: how long to learn, how much an adapter holds, and what a card's memory takes.

A preset sets fields of a config by name, whatever their section; what a person sets goes before it.
Reading presets imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from pipelines.errors import ConfigError, nearest
from pipelines.families import FAMILIES
from pipelines.methods import TUNINGS
from pipelines.placement import GIB, Card
from pipelines.quantised import QUANTISED
from trainers.settings.adapter import AdapterConfig, meaningful
from trainers.settings.data import DataConfig
from trainers.settings.fields import Section, one_of
from trainers.settings.run import RunConfig

_SUBJECT = {"prior_batch_size": 2}
# A style changes everything that is drawn: it wants the feed-forward layers too, and no prior, which
# would let new things (a crown, a tiger) keep their own look in the style. It is learned sooner, too: with
# twelve pictures the held-out loss was lowest at some 150 steps.
_STYLE = {"prior_weight": 0.0, "unet_targets": "attention+ff"}
_SKETCH = {"num_class_images": 32, "checkpoint_every": 50}
# Measured where previews are drawn: each measure costs as much as some three steps.
_STANDARD = {"num_class_images": 48}
_THOROUGH = {"num_class_images": 96, "evaluate_every": 100}

PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("sketch", "subject"): {**_SUBJECT, **_SKETCH, "steps": 250, "preview_every": 125},
    ("sketch", "style"): {**_STYLE, **_SKETCH, "steps": 150, "preview_every": 75},
    ("standard", "subject"): {**_SUBJECT, **_STANDARD, "steps": 500, "evaluate_every": 100},
    ("standard", "style"): {**_STYLE, **_STANDARD, "steps": 250, "preview_every": 50},
    ("thorough", "subject"): {**_SUBJECT, **_THOROUGH, "steps": 1200, "preview_every": 200},
    ("thorough", "style"): {**_STYLE, **_THOROUGH, "steps": 600},
}
"""What each (preset, kind) sets besides the defaults, by field name. Tuned on the embedded base."""

PRESET_NAMES: tuple[str, ...] = tuple(dict.fromkeys(preset for preset, _ in PRESETS))

SIZES: dict[str, dict[str, Any]] = {
    "conservative": {"rank": 4, "alpha": 4.0},
    "usual": {},
    "aggressive": {"rank": 32, "alpha": 32.0},
}
"""How much an adapter holds: little, which forgets least; as the default; much, which learns most."""


def _row(batch: int, **more: Any) -> dict[str, Any]:
    """One way to train in little memory; steps of four pictures in all, as the presets were tuned with."""
    return {
        "precision": "bf16", "offload": "parts", "batch_size": batch, "accumulate": 4 // batch,
        "gradient_checkpointing": "auto", **more,
    }  # fmt: skip


_UNET_ALONE = {"text_targets": "none"}

MEMORY: dict[tuple[int, str], dict[str, Any]] = {
    (6, "sd15"): _row(2),
    (8, "sd15"): _row(2),
    (12, "sd15"): _row(4),
    (16, "sd15"): _row(4),
    (24, "sd15"): _row(4),
    (6, "sd2"): _row(2),
    (8, "sd2"): _row(2),
    (12, "sd2"): _row(2),
    (16, "sd2"): _row(4),
    (24, "sd2"): _row(4),
    (6, "sdxl"): _row(1, quantise="int8-w8a8", **_UNET_ALONE),
    (8, "sdxl"): _row(1, **_UNET_ALONE),
    (12, "sdxl"): _row(2),
    (16, "sdxl"): _row(2),
    (24, "sdxl"): _row(2),
}
"""What a card of so many GB takes, by (GB, family).

Four pictures at once where they fit with nothing recomputed, else two, else one: accumulating costs less work
than recomputing, but with one picture at once there would be as many class pictures. What of that has to be
recomputed a run finds out by itself. SD 1.x at 512, SD 2.x at 768 and SDXL at 1024 pixels.
"""

MEMORY_SIZES: tuple[int, ...] = tuple(dict.fromkeys(size for size, _ in MEMORY))


class Preset(Section):
    """What a config's `[preset]` says; a text in its place is the name alone."""

    name: str | None = Field(
        default=None, title="Preset", description=f"How long to learn: {', '.join(PRESET_NAMES)}."
    )
    size: Annotated[str, one_of(*SIZES)] = Field(
        default="usual", title="Size", description=f"How much the adapter holds: {', '.join(SIZES)}."
    )
    memory: int | None = Field(
        default=None,
        title="Memory",
        description="The card's memory in GB; with it, `family` says which base.",
    )
    family: Annotated[str, one_of(*FAMILIES)] | None = Field(
        default=None, title="Family", description=f"The base's, for `memory`: {', '.join(FAMILIES)}."
    )


def preset_fields(preset: Preset, kind: str) -> dict[str, Any]:
    """Say what a preset sets, by field name.

    kind: "subject" or "style". Raises: ConfigError for a kind or memory without a row, for memory without a
    family or the reverse, and where the size is too much for the memory.
    """
    fields = {**_length(preset.name, kind), **SIZES[preset.size]}
    if preset.memory is None:
        if preset.family is not None:
            raise ConfigError("preset.family has no effect without preset.memory; leave it out or give both")
        return fields
    if (memory := preset.memory) not in MEMORY_SIZES:
        near = min(MEMORY_SIZES, key=lambda size: (abs(size - memory), size))
        raise ConfigError(
            f"preset.memory: got {memory} GB, expected one of {', '.join(map(str, MEMORY_SIZES))}; "
            f"did you mean {near}?"
        )
    if preset.family is None:
        raise ConfigError(f"preset.memory needs preset.family; give one of {', '.join(FAMILIES)}")
    fields |= MEMORY[preset.memory, preset.family]
    if value_of(fields, "prior_weight"):
        fields["prior_batch_size"] = max(1, fields["batch_size"] // 2)
    needed, usable = training_bytes(preset.family, fields), card_bytes(preset.memory)
    if needed > usable:
        raise ConfigError(
            f"preset: size {preset.size!r} needs {needed / GIB:.1f} GiB for {FAMILIES[preset.family].label}, "
            f"a card of {preset.memory} GB has {usable / GIB:.1f}; choose a smaller size or a larger memory"
        )
    return fields


def fitting(fields: dict[str, Any], method: Any) -> dict[str, Any]:
    """Leave out of a preset's fields the layers and the alpha where `method`, as a config says it, has none.

    What a person chooses where it means nothing is refused instead (see `AdapterConfig`), and so is a size
    where there is no rank.

    Raises: ConfigError for that.
    """
    means = meaningful(method) if isinstance(method, str) and method in TUNINGS else {}
    if "rank" in fields and not means.get("rank", True):
        raise ConfigError(
            f"preset.size: {TUNINGS[method].label} has no rank; leave the size out, or choose another method"
        )
    own = ("unet_targets", "text_targets", "alpha")
    return {name: value for name, value in fields.items() if name not in own or means.get(name, True)}


def _length(name: str | None, kind: str) -> dict[str, Any]:
    """What a preset of this name sets for a kind; nothing without a name."""
    if name is None:
        return {}
    if name not in PRESET_NAMES:
        raise ConfigError(f"unknown preset {name!r}{nearest(str(name), PRESET_NAMES)}")
    if not isinstance(kind, str) or (name, kind) not in PRESETS:
        kinds = [known for one, known in PRESETS if one == name]
        raise ConfigError(
            f"data.kind: got {kind!r}, expected one of the known kinds{nearest(str(kind), kinds)}"
        )
    return PRESETS[name, kind]


# ── What a training takes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a family's published models take at their native size.

    unet: numbers of the UNet; quantisable: those that `run.quantise` holds in fewer bits. text: numbers of
    the text encoders. kept: GiB of activations per sample that the backward pass needs, by checkpointing;
    again: GiB per sample beside these that are alive for a moment. attention, feed_forward, text_attention:
    numbers of an adapter of rank 1 there.

    Source: counted by `trainers.counting` with bf16 weights, LoRA of rank 16 on attention and a fused
    attention; PEFT's layers, which other methods have, keep up to two fifths more where nothing is
    recomputed.
    """

    unet: int
    quantisable: int
    text: int
    kept: dict[str, float]
    again: dict[str, float]
    attention: int
    feed_forward: int
    text_attention: int


COSTS: dict[str, Cost] = {
    "sd15": Cost(
        unet=859_520_964, quantisable=242_196_480, text=123_060_480,
        kept={"none": 0.757, "selective": 0.311, "all": 0.137},
        again={"none": 0.024, "selective": 0.079, "all": 0.079},
        attention=199_296, feed_forward=224_640, text_attention=73_728,
    ),
    "sd2": Cost(
        unet=865_910_724, quantisable=273_367_040, text=340_387_840,
        kept={"none": 1.599, "selective": 0.598, "all": 0.216},
        again={"none": 0.060, "selective": 0.184, "all": 0.184},
        attention=207_488, feed_forward=224_640, text_attention=188_416,
    ),
    "sdxl": Cost(
        unet=2_567_463_684, quantisable=2_207_744_000, text=817_720_320,
        kept={"none": 5.270, "selective": 2.897, "all": 0.421},
        again={"none": 0.058, "selective": 0.088, "all": 0.088},
        attention=1_451_520, feed_forward=1_208_320, text_attention=401_408,
    ),
}  # fmt: skip

# Products' work space and what the allocator can't hand out; a text encoder's activations per sample.
_WORKING, _TEXT_SAMPLE = 0.35, 0.15
# fp32: the number, its gradient, AdamW's two averages.
_BYTES_PER_TRAINED = 16


def card_bytes(memory: int) -> int:
    """Bytes that a training may have on a card of `memory` GB, which a desktop and the driver share."""
    return Card("cuda", memory * GIB, bits=16).usable


def training_bytes(family: str, fields: dict[str, Any]) -> int:
    """Estimate the peak of a training on a card, in bytes.

    fields: by name, as presets give them; those that are missing have their default. The VAE and text
    encoders that don't learn are taken to be off the card.
    """
    cost, get = COSTS[family], lambda name: value_of(fields, name)
    quantiser = get("quantise")
    bits = 32 if get("precision") == "fp32" else 16
    few = QUANTISED[quantiser].bits if quantiser else bits
    weights = ((cost.unet - cost.quantisable) * bits + cost.quantisable * few) / 8
    samples = get("batch_size")
    if get("prior_weight"):
        samples += get("prior_batch_size") or get("batch_size")
    wide = get("unet_targets") != "attention"
    trained = cost.attention + (cost.feed_forward if wide else 0)
    mode = get("gradient_checkpointing")
    mode = "all" if mode == "auto" else mode  # that is where it ends
    activations = samples * (cost.kept[mode] + cost.again[mode]) * bits / 16
    if get("text_targets") != "none":
        weights += cost.text * bits / 8
        trained += cost.text_attention
        activations += samples * _TEXT_SAMPLE * bits / 16
    adapter = trained * get("rank") * _BYTES_PER_TRAINED
    return int(weights + adapter + (activations + _WORKING) * GIB)


def value_of(fields: dict[str, Any], name: str) -> Any:
    """A field's value: what `fields` says, else the default of the section that has it."""
    if name in fields:
        return fields[name]
    section = next(one for one in (DataConfig, AdapterConfig, RunConfig) if name in one.model_fields)
    return section.model_fields[name].default
