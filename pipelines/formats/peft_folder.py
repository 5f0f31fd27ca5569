"""Folders that PEFT wrote, as their configuration and the names of their tensors tell; no numbers here.

PEFT keeps one folder per model: `adapter_config.json` and `adapter_model.safetensors`, whose keys are
`base_model.model.<path>.<ending>`. A pipeline's adapter is a folder of such folders, named after the
pipeline's components.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError
from pipelines.families import FAMILIES
from pipelines.files import file_sha256
from pipelines.formats.container import FLOATS, Header, read_header
from pipelines.formats.keys import plain_unet_path
from pipelines.methods import METHODS, Method
from pipelines.plain_json import parse_json

CONFIG = "adapter_config.json"
MODEL = "adapter_model.safetensors"
PREFIX = "base_model.model."
SHARED_PREFIX = "base_model."
MAX_CONFIG_BYTES = 1_000_000

COMPONENTS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.components))

# Fields whose value is used, or that say nothing about ΔW: what training did, and where it looked for
# modules (the tensors' names tell which it found). fan_in_fan_out is one of them: PEFT itself turns it
# off on the layers that these models have. Any other field that is set is refused by its name.
_UNDERSTOOD = frozenset((
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "feedforward_modules", "fan_in_fan_out", "r", "lora_alpha", "alpha", "rank_pattern",
    "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights", "init_weights", "init_ia3_weights",
    "lora_dropout", "rank_dropout", "module_dropout", "rank_dropout_scale", "vera_dropout",
    "boft_dropout", "megatron_core", "loftq_config", "eva_config", "corda_config", "use_qalora",
    "qalora_group_size", "runtime_config", "use_effective_conv2d", "decompose_both", "decompose_factor",
    "init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight",
    "total_step", "projection_prng_key", "save_projection", "d_initial", "oft_block_size", "coft",
    "eps", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms", "boft_block_size",
    "boft_block_num", "boft_n_butterfly_factor",
))  # fmt: skip
_OFF: tuple[Any, ...] = (None, False, 0, "", "none")
# Ways to start that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ …) move a part of
# it into the adapter, so that the factors alone aren't ΔW.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "lycoris")


@dataclass(frozen=True)
class PeftFolder:
    """One of PEFT's folders. model, shown: its file of tensors, and its name for messages.

    parts: module path → part name → key, the tensors that all modules share included. methods: the
    row of each module, by path.
    """

    model: Path
    shown: str
    config: Mapping[str, Any]
    header: Header
    parts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=dict)


def locate(path: Path) -> dict[str, Path]:
    """Return the files of tensors by component; the key is "" where only the names inside can tell.

    path: a folder of folders, one such folder, or the file in one. Empty where it is nothing of PEFT's.
    """
    if path.is_file():
        return {"": path} if path.name == MODEL and (path.parent / CONFIG).is_file() else {}
    if (path / CONFIG).is_file():
        return {path.name if path.name in COMPONENTS else "": path / MODEL}
    return {name: path / name / MODEL for name in COMPONENTS if (path / name / CONFIG).is_file()}


def open_folder(model: Path) -> PeftFolder:
    """Read a folder's configuration and header, and sort its tensors by module and part.

    Raises: AdapterError in one line for a method, a field or a tensor that isn't understood.
    """
    shown = f"{model.parent.name}/{model.name}"
    if not model.is_file() and (model.parent / "adapter_model.bin").is_file():
        raise AdapterError(
            f"{model.parent.name!r} holds pickled weights, which are never opened; save it as .safetensors"
        )
    config = _read_config(model.parent / CONFIG)
    rows = _rows(config, shown)
    _check_fields(config, rows, shown)
    header = read_header(model)
    parts, shared = _sort(header, rows, shown)
    if not parts:
        raise AdapterError(f"{shown!r} is empty: it holds no modules; expected an adapter")
    for path in parts:
        parts[path] |= shared
    methods = {path: _method(path, parts[path], rows, config, shown) for path in parts}
    return PeftFolder(model, shown, config, header, parts, methods)


def _read_config(path: Path) -> dict[str, Any]:
    shown = f"{path.parent.name}/{path.name}"
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise AdapterError(f"{shown!r} has {size:,} bytes, at most {MAX_CONFIG_BYTES:,} are read")
        found = parse_json(path.read_bytes())
    except OSError as error:
        raise AdapterError(f"{shown!r} can't be read: {error.strerror or error}; check the path") from None
    except ValueError:
        raise AdapterError(f"{shown!r} isn't JSON; fetch it again") from None
    if not isinstance(found, dict):
        raise AdapterError(f"{shown!r} holds no settings; fetch it again")
    return found


def _rows(config: Mapping[str, Any], shown: str) -> list[Method]:
    kind = config.get("peft_type")
    rows = [row for row in METHODS.values() if row.peft_type and row.peft_type == kind]
    if not rows:
        known = ", ".join(sorted({row.peft_type for row in METHODS.values() if row.peft_type}))
        raise AdapterError(f"{shown!r} is of PEFT's kind {str(kind)[:40]!r}; supported: {known}")
    return rows


def _check_fields(config: Mapping[str, Any], rows: list[Method], shown: str) -> None:
    understood = _UNDERSTOOD.union(*(row.peft_reads for row in rows))
    for name, value in config.items():
        if name not in understood and value not in _OFF and value not in ([], {}):
            raise AdapterError(
                f"{shown!r} has {name[:40]} = {str(value)[:60]!r} in {CONFIG}, which isn't supported; "
                "save it without"
            )
    start = config.get("init_lora_weights")
    if not any(start is plain or (isinstance(start, str) and start == plain) for plain in _PLAIN_STARTS):
        raise AdapterError(
            f"{shown!r} was begun with {str(start)[:40]!r}, which moves a part of the base into the adapter; "
            "save it with path_initial_model_for_weight_conversion"
        )


def _sort(header: Header, rows: list[Method], shown: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    known = [part for row in rows for part in row.parts if part.peft]
    endings = sorted({(f".{part.peft}", part.name) for part in known if not part.shared}, reverse=True)
    whole = {f"{SHARED_PREFIX}{part.peft}": part.name for part in known if part.shared}
    parts: dict[str, dict[str, str]] = {}
    shared: dict[str, str] = {}
    for key, entry in header.tensors.items():
        if entry.dtype not in FLOATS:
            raise AdapterError(f"{shown!r} has {entry.dtype} numbers at {key}; expected F32, F16 or BF16")
        if key in whole:
            shared[whole[key]] = key
            continue
        ending = next((pair for pair in endings if key.endswith(pair[0])), None)
        if ending is None or not key.startswith(PREFIX):
            raise AdapterError(
                f"{shown!r} has the tensor {key[:100]!r}, which isn't understood; expected "
                f"{PREFIX}….{' or '.join(e[0][1:] for e in endings[:3])}"
            )
        path = key.removeprefix(PREFIX).removesuffix(ending[0]).removeprefix("text_model.")
        if ending[1] in parts.setdefault(path, {}):
            raise AdapterError(f"{shown!r} names one module twice, at {key[:100]!r}; resave it")
        parts[path][ending[1]] = key
    return parts, shared


def _method(
    path: str, parts: Mapping[str, str], rows: list[Method], config: Mapping[str, Any], shown: str
) -> Method:
    found = next((row for row in rows if row.required <= parts.keys() <= row.known), None)
    if found is None:
        lacking = sorted(rows[0].required - parts.keys())
        more = "; save it with save_projection" if lacking[:1] == ["vera_a"] else "; fetch it again"
        raise AdapterError(f"{shown!r} is incomplete: {path} has no {(lacking or ['part'])[0]}{more}")
    if bool(config.get("use_dora")) != ("magnitude" in parts) and found.peft_type == "LORA":
        states = "states" if config.get("use_dora") else "doesn't state"
        raise AdapterError(f"{shown!r} {states} DoRA, its tensors at {path} say otherwise; fetch it again")
    return found


def component_of(folder: PeftFolder, named: str, family: str | None) -> str:
    """Return the component that a folder is for: as it is named, or as its names and class say.

    family: decides only between two text encoders. Raises: AdapterError where nothing tells.
    """
    if named:
        return named
    if all(plain_unet_path(path) for path in folder.parts):
        return "unet"
    if any(plain_unet_path(path) for path in folder.parts):
        raise AdapterError(f"{folder.shown!r} has modules of a UNet and others; expected one component")
    mapping = folder.config.get("auto_mapping")
    stated = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    for row in FAMILIES.values():
        for encoder in row.text_encoders:
            if family in (row.id, None) and encoder.model_class == stated:
                return encoder.component
    return "text_encoder"


def canonical(folders: Mapping[str, PeftFolder]) -> Iterator[tuple[str, str, PeftFolder]]:
    """Yield canonical module name, path in its folder, and folder of every module."""
    for component, folder in folders.items():
        for path in folder.parts:
            yield f"{component}.{path}", path, folder


def folders_sha256(folders: Mapping[str, Path]) -> str:
    """Return the SHA-256 over names and contents of the configurations and tensors, by component."""
    digest = hashlib.sha256()
    for component, folder in sorted(folders.items()):
        for name in (CONFIG, MODEL):
            digest.update(f"{component}/{name}\0{file_sha256(folder / name)}\n".encode())
    return digest.hexdigest()
