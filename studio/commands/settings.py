"""What a command line says of a drawing: flags out of the settings' own metadata, a file, a picture.

Later ones win: the defaults, `--from`, `--config`, the flags.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, nearest
from studio.commands.arguments import WEIGHT_HELP, place
from studio.commands.picture_inputs import Given, add_inputs, inputs_of
from studio.commands.restoring import adapters_listed, adapters_of, adapters_tagged, base_of, take_vae
from studio.commands.uses import Use, add_uses, uses_of
from studio.forms import FieldSpec, spec_of

if TYPE_CHECKING:
    from pipelines.generation import GenerationConfig, Inputs
    from pipelines.parameters import Restored

_PREFIX = "set_"
_SHORT = {
    "negative_prompt": "--negative",
    "num_images": "--count",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
}
_ELSEWHERE = frozenset({"prompt", "adapters", "image", "mask", "controls", "image_prompt"})
_TYPES = {"whole": int, "number": float, "text": str}
_LARGEST_FILE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command line asks for, checked. base: as a person wrote it; None: not said.

    base_sha256: of the base that a picture was made with, as far as it says. record: the settings in a
    picture of Pigment's, whole; empty: from none. notes: what a person should know of what was taken over.
    """

    config: GenerationConfig
    uses: list[Use]
    inputs: Inputs
    base: str | None = None
    base_sha256: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The prompt, a flag for every plain field of GenerationConfig, where else settings come from."""
    parser.add_argument(
        "prompt", nargs="?", default=None, help="what the picture shows; <lora:NAME:0.8> mixes"
    )
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME:WEIGHT", help=f"{WEIGHT_HELP}; repeatable"
    )
    parser.add_argument(
        "--config", default=None, metavar="FILE", help="settings by name, from a .toml or .json file"
    )
    parser.add_argument(
        "--from", dest="from_picture", default=None, metavar="PICTURE",
        help="the settings in a picture of Pigment, A1111 or ComfyUI; --adapter replaces its adapters",
    )  # fmt: skip
    add_inputs(parser)
    group = parser.add_argument_group("settings")
    for spec in plain_fields():
        flags = [flag for flag in (_SHORT.get(spec.path), f"--{spec.path.replace('_', '-')}") if flag]
        options: dict[str, Any] = {"dest": f"{_PREFIX}{spec.path}", "default": None, "help": _help(spec)}
        if spec.kind == "flag":
            group.add_argument(*flags, action=argparse.BooleanOptionalAction, **options)
        elif spec.kind == "choice":
            group.add_argument(*flags, choices=spec.choices, **options)
        else:
            group.add_argument(
                *flags, type=_TYPES[spec.kind],
                metavar={"whole": "N", "number": "X", "text": "TEXT"}[spec.kind], **options,
            )  # fmt: skip


def plain_fields() -> list[FieldSpec]:
    """The fields of GenerationConfig that one flag can hold, as their metadata say."""
    from pipelines.generation import GenerationConfig

    fields = GenerationConfig.model_fields.items()
    return [spec_of(name, info) for name, info in fields if name not in _ELSEWHERE]


def _help(spec: FieldSpec) -> str:
    from pipelines.generation import GenerationConfig
    from pipelines.samplers import SAMPLERS

    default = GenerationConfig.model_fields[spec.path].default
    bounds = "" if spec.minimum is None or spec.maximum is None else f"{spec.minimum:g} to {spec.maximum:g}"
    told = [bounds, spec.unit, "" if default in (None, "") else f"default: {default}"]
    if spec.path == "sampler":
        told.insert(0, ", ".join(SAMPLERS))
    details = "; ".join(part for part in told if part)
    text = f"{spec.title}: {spec.help[:1].lower()}{spec.help[1:].rstrip('.')}"
    return (f"{text} ({details})" if details else text).replace("%", "%%")


def _by_key(fields: dict[str, Any]) -> None:
    """Give a sampler and an upscaler the names they have here, whatever name they are called by."""
    from pipelines.drawing.hires import upscaler_named
    from pipelines.samplers import sampler_named

    for name, named in (("sampler", sampler_named), ("hires_upscaler", upscaler_named)):
        if isinstance(text := fields.get(name), str):
            fields[name] = named(text) or text


def _refuse_idle(config: GenerationConfig, given: Collection[str], own: bool, notes: list[str]) -> None:
    """Refuse settings that were given but change nothing; of those that a picture brought, say it.

    own: whether the picture is Pigment's, in which such settings stand as they were.
    """
    from pipelines.drawing.agreement import idle

    for name, needs in idle(config).items():
        shown = f"{name} is {repr(getattr(config, name))[:40]}, which changes nothing without {needs}"
        if name in given:
            raise ConfigError(f"{shown}; give that too, or leave {name} out")
        if not own:
            notes.append(shown)


def asked(args: argparse.Namespace) -> Asked:
    """Gather what a command line asks for.

    Raises: ConfigError for settings that are unknown or out of bounds, or no prompt; PictureError for a
    picture that can't be read; AdapterError for an adapter that isn't here.
    """
    from pipelines.axes import changed
    from pipelines.generation import GenerationConfig
    from pipelines.prompts import split_tags

    fields: dict[str, Any] = {}
    uses: list[Use] = []
    base, sha256, notes = None, None, []
    given, said = Given(), set[str]()
    restored: Restored | None = None
    if args.from_picture is not None:
        restored = _restored(args.from_picture)
        fields |= {name: value for name, value in restored.fields.items() if name != "adapters"}
        base, sha256 = base_of(restored, args), restored.base.hash
        notes += [f"not taken over: {name} = {value[:80]}" for name, value in restored.left_over.items()]
        take_vae(restored, args, notes)
        if not args.adapter:
            uses = add_uses(uses, adapters_of(restored, args, notes))
    if args.config is not None:
        table = _table(args.config)
        base = table.pop("base", base)
        given = given.of_table(table)
        if (listed := table.pop("adapters", None)) is not None:
            uses = adapters_listed(listed, args, notes)
        fields |= table
        said |= table.keys() - {"batch_size"}  # which every picture of a batch records
    fields |= (flags := _flags(args))
    said |= flags.keys()
    _by_key(fields)
    if args.prompt is not None:
        fields["prompt"] = args.prompt
    if not str(fields.get("prompt", "")).strip():
        raise ConfigError("the prompt is empty; say what the picture should show, such as “a photo of a cat”")
    uses = add_uses(uses, uses_of(args.adapter, args))
    prompt, tags = split_tags(str(fields["prompt"]))
    fields["prompt"] = prompt
    uses = add_uses(uses, adapters_tagged(tags, args))
    fields, inputs = inputs_of(args, given, fields, notes)
    known = set(GenerationConfig.model_fields)
    for name in fields:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}{nearest(name, known)}")
    config = changed(GenerationConfig(prompt=""), **fields)
    record = {} if restored is None else restored.record
    _refuse_idle(config, said, restored is None or bool(record), notes)
    return Asked(
        config=config, uses=uses, inputs=inputs, base=base, base_sha256=sha256, record=record, notes=notes
    )


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that flags were given for."""
    found = {name: value for name, value in vars(args).items() if name.startswith(_PREFIX)}
    return {name.removeprefix(_PREFIX): value for name, value in found.items() if value is not None}


def _table(name: str) -> dict[str, Any]:
    """Read settings from a TOML or JSON file; a picture's settings have them under `generation`."""
    path = place(name)
    kind = path.suffix.lower()
    if kind not in (".toml", ".json"):
        raise ConfigError(f"--config {name!r} is no .toml or .json file; give one of these")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"--config {name!r} has over {_LARGEST_FILE:,} bytes; give a smaller file")
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if kind == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"--config {name!r} can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        raise ConfigError(f"--config {name!r} isn't readable {kind[1:].upper()}: {reason}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"--config {name!r} holds no settings; write name = value, as steps = 20")
    inner = table.get("generation", table)
    if not isinstance(inner, dict):
        raise ConfigError(f"--config {name!r} holds no settings under 'generation'")
    found = {key: value for key, value in inner.items() if value is not None}
    base = table.get("base")
    if base is not None:
        found["base"] = str(base.get("ref") if isinstance(base, Mapping) else base)
    short = {flag.removeprefix("--"): name for name, flag in _SHORT.items()}
    return {short.get(key, key): value for key, value in found.items()}


def _restored(name: str) -> Restored:
    from pipelines.parameters import restore

    return restore(place(name))
