"""Adapter files in: recognised by their keys, read whole or refused in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter, AnyFactors, Factors, LowRank
from pipelines.errors import AdapterError, nearest
from pipelines.families import FAMILIES, Family, foreign_family
from pipelines.files import file_sha256
from pipelines.formats import embedding, pigment
from pipelines.formats.checks import Recognised, faults, misshapen
from pipelines.formats.container import Header, data_sha256, read_header, read_tensors
from pipelines.formats.diffusers import states_dora
from pipelines.formats.keys import ALPHA, Parsed, fraction, other_method, sort_keys
from pipelines.formats.metadata import about_of, is_ours, read_metadata
from pipelines.formats.recognition import Clues, stated_for
from pipelines.formats.table import FORMATS, Format
from pipelines.methods import METHODS, method_of

if TYPE_CHECKING:
    import torch


def read_adapter(path: str | Path, *, family: str | None = None) -> Adapter:
    """Read an adapter in any form of FORMATS, whole.

    path: a .safetensors file, or a folder written by PEFT. family: a key of FAMILIES, used only where
    the file itself doesn't decide; None takes the first family whose names match then. Nothing is
    skipped: every tensor must belong to a module, with fitting shapes and finite numbers. Whether the
    modules exist in a base is for `Adapter.check`.

    Raises: AdapterError in one line (damaged, hostile, pickle, an unsupported family or method, half
    modules).
    """
    path = Path(path)
    if peft_path(path):
        from pipelines.formats.peft import read_peft

        return read_peft(path, family=family)
    path = weight_file(path)
    found = recognise(path, family)
    adapter = load(path, found)
    for fault in misshapen(adapter.factors):
        raise AdapterError(f"{path.name!r} {fault.says}")
    adapter.check_factors()
    return adapter


def peft_path(path: Path) -> bool:
    """Whether a path is a folder that PEFT wrote, or the weights in one."""
    config = "adapter_config.json"
    if path.is_dir():
        likely = (path / config).is_file() or any(path.glob(f"*/{config}"))
    else:
        likely = path.name == "adapter_model.safetensors"
    if not likely:
        return False
    from pipelines.formats.peft import is_peft

    return is_peft(path)


def weight_file(path: Path) -> Path:
    """Return the file of diffusers' `save_lora_weights` in a folder, and any other path as it is."""
    inside = path / "pytorch_lora_weights.safetensors"
    return inside if path.is_dir() and inside.is_file() else path


def load(path: Path, found: Recognised) -> Adapter:
    """Read the numbers of a recognised file, except of what is left out.

    Raises: AdapterError where they aren't what the file's own hash states, or it changed meanwhile.
    """
    raw = found.header.metadata
    if is_ours(raw) and (stated := raw.get("modelspec.hash_sha256")):
        actual = data_sha256(path, found.header.data_start)
        if stated.removeprefix("0x") != actual:
            raise AdapterError(
                f"{path.name!r} is damaged: its numbers have SHA-256 {actual[:12]}…, it states "
                f"{stated.removeprefix('0x')[:12]!r}…; fetch it again"
            )
    tensors = read_tensors(path)
    if tensors.keys() != found.header.tensors.keys():
        raise AdapterError(f"{path.name!r} changed while it was read; try again")
    name, triggers, metadata = read_metadata(raw, path)
    about = about_of(raw)
    factors = {
        module: _factor(module, parts, found, tensors, about, path.name)
        for module, parts in found.parsed.modules.items()
    }
    tokens = {
        token_name(token, found.format, about, path.stem): {
            component: tensors[key].reshape(-1, tensors[key].shape[-1]) for component, key in keys.items()
        }
        for token, keys in found.parsed.tokens.items()
    }
    if len(tokens) != len(found.parsed.tokens):
        raise AdapterError(f"{path.name!r} gives two of its tokens one name; resave it")
    return Adapter(
        name=name,
        family=found.family.id,
        method=commonest_method(factor.method for factor in factors.values()),
        factors=factors,
        tokens=tokens,
        triggers=triggers or (tuple(tokens) if not factors else ()),
        metadata=metadata,
        sha256=file_sha256(path),
    )


def commonest_method(methods: Any) -> str:
    """Return the commonest of some methods, "lora" where there are none."""
    counted = Counter(methods).most_common(1)
    return counted[0][0] if counted else LowRank.method


def token_name(token: str, form: Format, about: Mapping[str, Any], stem: str) -> str:
    """Return the token that a key stands for, whether or not the key names it."""
    if form.id == "pigment":
        return pigment.token_name(about, token) or f"{stem}-{token}"
    return pigment.token_name(about, "0") or stem if token == embedding.SELF else token


def _factor(
    module: str,
    parts: Mapping[str, str],
    found: Recognised,
    tensors: Mapping[str, torch.Tensor],
    about: Mapping[str, Any],
    shown: str,
) -> AnyFactors:
    import torch

    method, options = stated_method(module, parts, found.format, about)
    values: dict[str, torch.Tensor] = {
        # Flags such as LyCORIS' on_input are whole numbers.
        part: tensors[key] if tensors[key].is_floating_point() else tensors[key].to(torch.float32)
        for part, key in parts.items()
        if part != ALPHA
    }
    row = METHODS[method]
    if found.format.id == "diffusers" and row.id != LowRank.method:
        # diffusers keeps PEFT's tensors, and LoRA's relatives go by PEFT's rules.
        options |= {"axis": "output"} if "magnitude" in values else {}
        values = row.parts_from_peft(values, options) if row.parts_from_peft else values
    factor: AnyFactors
    if method == LowRank.method:
        factor = LowRank(down=values["down"], up=values["up"], alpha=1.0)
    else:
        factor = Factors(method=method, parts=values, options=options)
    if ALPHA in parts:
        return replace(factor, alpha=float(tensors[parts[ALPHA]].item()))
    rank = factor.rank
    stated = found.format.stated_alpha(module, rank, found.header.metadata, shown) if rank else 1.0
    return replace(factor, alpha=stated)


def stated_method(
    module: str, parts: Mapping[str, str], form: Format, about: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return (method, options) of a module whose parts have passed `recognise`."""
    if form.id == "pigment" and (stated := pigment.stated_method(about, module)):
        return stated
    row = method_of(parts)
    assert row is not None, parts
    return row.id, {}


def recognise(path: Path, family: str | None = None, *, partly: bool = False) -> Recognised:
    """Tell form and family of a file from its header, and check keys, parts, shapes and kinds.

    family: as in `read_adapter`. partly: leave out what isn't understood, instead of refusing it.
    Raises: AdapterError in one line.
    """
    if family is not None and family not in FAMILIES:
        raise AdapterError(f"unknown family {family!r}{nearest(family, FAMILIES)}")
    header = read_header(path)
    shown = path.name
    if not header.tensors:
        raise AdapterError(f"{shown!r} is empty: it holds no tensors; expected an adapter")
    if foreign := foreign_family(list(header.tensors), header.metadata):
        supported = ", ".join(row.label for row in FAMILIES.values())
        raise AdapterError(f"{shown!r} is an adapter for {foreign}; supported: {supported}")
    form, row, parsed = _sorted(header, family)
    left = dict.fromkeys(parsed.unknown, "it isn't understood") if partly else {}
    if parsed.unknown and not partly:
        raise AdapterError(_unknown_message(header, parsed, shown))
    if parsed.doubled:
        raise AdapterError(f"{shown!r} names one module twice, at {parsed.doubled[0][:100]!r}; resave it")
    about = about_of(header.metadata)
    if form.id == "pigment" and (why := pigment.problem(about)):
        raise AdapterError(f"{shown!r} {why}")
    stated = {
        name: pair[0]
        for name in parsed.modules
        if form.id == "pigment" and (pair := pigment.stated_method(about, name))
    }
    for name, parts in parsed.modules.items():
        component = name.split(".", 1)[0]
        if form.id == "diffusers" and "magnitude" not in parts and states_dora(component, header.metadata):
            raise AdapterError(f"{shown!r} states DoRA, and {name} has no magnitudes; fetch it again")
    for fault in list(faults(header, parsed, stated)):
        if not partly:
            raise AdapterError(f"{shown!r} {fault.says}")
        left |= dict.fromkeys(parsed.parts.pop(fault.module).values(), f"the file {fault.says}")
    return Recognised(header, form, row, parsed, left)


def _sorted(header: Header, hint: str | None) -> tuple[Format, Family, Parsed]:
    """Sort the keys by the form and for the family that leave the fewest unknown."""
    keys = list(header.tensors)
    sample = keys[:4] + keys[4 :: max(1, len(keys) // 8)]
    forms = [row for row in FORMATS.values() if row.id != "embedding" or embedding.plausible(header.tensors)]
    pairs = [
        (form.read_key, form, family)
        for family in sorted(FAMILIES.values(), key=lambda row: not stated_for(row, header.metadata))
        for form in forms
        if form.read_key is not None
    ]
    # A few keys tell which readings are worth trying on all of them; the order decides among equals.
    pairs.sort(key=lambda pair: sum(pair[0](key, pair[2]) is None for key in sample))
    best: tuple[int, Format, Family, Parsed] | None = None
    for read_key, form, family in pairs:
        parsed = sort_keys(keys, family, read_key)
        if best is None or len(parsed.unknown) < best[0]:
            best = (len(parsed.unknown), form, family, parsed)
        if not parsed.unknown:
            break
    assert best is not None
    _, form, family, parsed = best
    chosen = Clues(header, parsed, hint).best()
    if chosen != family:
        assert form.read_key is not None
        again = sort_keys(header.tensors, chosen, form.read_key)
        if len(again.unknown) <= len(parsed.unknown):
            family, parsed = chosen, again
    return form, family, parsed


def _unknown_message(header: Header, parsed: Parsed, shown: str) -> str:
    if any(key.startswith("base_model.model.") for key in parsed.unknown):
        return f"{shown!r} is in PEFT's form; choose the folder that holds its adapter_config.json"
    if method := other_method(parsed.unknown):
        return f"{shown!r} holds {method} weights that aren't understood; resave it as LoRA"
    kind = "an adapter" if parsed.parts else "an adapter (it may be a whole model)"
    return (
        f"{shown!r} isn't understood as {kind}: {fraction(header.tensors, parsed)} known, for instance not "
        f"{parsed.unknown[0][:100]!r}; expected kohya, diffusers, LyCORIS or PEFT keys"
    )
