"""Adapters out, as the folders that PEFT loads."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter, AnyFactors
from pipelines.errors import AdapterError, nearest
from pipelines.families import FAMILIES, Family, with_text_model
from pipelines.files import sync_folder, write_atomic
from pipelines.formats.container import write_container
from pipelines.formats.metadata import file_metadata
from pipelines.formats.peft_folder import CONFIG, MODEL, PREFIX, SHARED_PREFIX, folders_sha256, locate
from pipelines.methods import METHODS, Method

if TYPE_CHECKING:
    import torch

_DTYPES = ("fp16", "bf16", "fp32")


def write_peft(adapter: Adapter, folder: str | Path, dtype: str = "fp16") -> str:
    """Write an adapter as PEFT's folders, `<folder>/unet` and so on, and return one SHA-256 of them.

    dtype: "fp16", "bf16" or "fp32". The folder is written beside and then renamed, whole or not at all;
    an earlier adapter of PEFT's at its place is replaced, anything else there is refused. The paths of
    text encoders are those of transformers from 5.6 on.

    Raises: AdapterError where PEFT can't hold the adapter (a method it lacks, several methods in one
    component, learned tokens), for numbers beyond the precision, or a system that refuses.
    """
    folder = Path(folder)
    if dtype not in _DTYPES:
        raise AdapterError(f"unknown precision {dtype!r}{nearest(dtype, _DTYPES)}")
    if folder.exists() and not (folder.is_dir() and (locate(folder) or not any(folder.iterdir()))):
        raise AdapterError(f"{folder.name!r} is there already and no adapter of PEFT's; choose another name")
    if adapter.tokens:
        raise AdapterError(f"adapter {adapter.name!r} has learned tokens, which PEFT's form lacks; leave it")
    if not adapter.factors:
        raise AdapterError(f"adapter {adapter.name!r} is empty; there is nothing to write")
    adapter.check_factors()
    contents = {name: _contents(adapter, name, dtype) for name in adapter.components}
    beside = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        beside.mkdir(parents=True)
        for component, (config, tensors) in contents.items():
            (beside / component).mkdir()
            text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
            write_atomic(beside / component / CONFIG, [text.encode()])
            metadata = file_metadata(adapter, rank=adapter.rank, alpha=adapter.alpha)
            write_container(beside / component / MODEL, tensors, metadata)
        sync_folder(beside)
        digest = folders_sha256({name: beside / name for name in contents})
        _put(beside, folder)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise AdapterError(f"{folder.name!r} can't be written: {reason}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return digest


def _put(beside: Path, folder: Path) -> None:
    """Rename a finished folder to its place; what stood there goes last, and comes back on failure."""
    former = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}.old")
    stood = folder.exists()
    if stood:
        os.replace(folder, former)
    try:
        os.replace(beside, folder)
    except OSError:
        if stood:
            os.replace(former, folder)
        raise
    sync_folder(folder.parent)
    if stood:
        shutil.rmtree(former, ignore_errors=True)


def _contents(adapter: Adapter, component: str, dtype: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the configuration and the tensors of one component."""
    start = f"{component}."
    modules = {name: f for name, f in adapter.factors.items() if name.startswith(start)}
    methods = {factor.method for factor in modules.values()}
    row = METHODS[next(iter(methods))]
    if len(methods) != 1 or not row.peft_type:
        what = f"{component} has {', '.join(sorted(METHODS[m].label for m in methods))}"
        can = "can't hold" if len(methods) == 1 else "holds one method per component"
        raise AdapterError(f"PEFT's form {can}: {what}; write it as plain LoRA or in the pigment form")
    family = FAMILIES[adapter.family]
    factors = {_path(component, name.removeprefix(start), family): f for name, f in modules.items()}
    try:
        ready = factors if row.for_peft is None else row.for_peft(factors)
        fields = {} if row.peft_fields is None else row.peft_fields(ready)
    except AdapterError as error:
        raise AdapterError(f"adapter {adapter.name!r}: {error}") from None
    config = {
        "peft_type": row.peft_type,
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "target_modules": sorted(ready),
        **fields,
    }
    return config, _tensors(adapter.name, row, ready, dtype)


def _path(component: str, path: str, family: Family) -> str:
    """CLIPTextModelWithProjection keeps a level that current transformers leave out of CLIPTextModel."""
    for encoder in family.text_encoders:
        if encoder.component == component and encoder.model_class == "CLIPTextModelWithProjection":
            return with_text_model(path)
    return path


def _tensors(
    name: str, row: Method, factors: Mapping[str, AnyFactors], dtype: str
) -> dict[str, torch.Tensor]:
    import torch

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    tensors: dict[str, torch.Tensor] = {}
    for path, factor in factors.items():
        for part in row.parts:
            if part.name not in factor.parts or not part.peft:
                continue
            key = f"{SHARED_PREFIX}{part.peft}" if part.shared else f"{PREFIX}{path}.{part.peft}"
            if key in tensors:
                continue
            values = factor.parts[part.name].detach()
            tensors[key] = values.to(kind)
            if not tensors[key].isfinite().all():
                raise AdapterError(
                    f"adapter {name!r} has numbers beyond {dtype} at {path} "
                    f"(largest {values.abs().max().item():.3g}); write it in bf16 or fp32"
                )
    return tensors
