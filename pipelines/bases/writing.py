"""A base written to a disk, with a mix folded in: a diffusers folder, or one file in the original layout.

Tensors are read, folded, converted and written one after the other, so a model needs little memory. What was
written is then opened anew as any base is, and every tensor is computed again and compared, bit for bit;
only then it gets its name.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines.bases.folding import Fold, Mix, plan_fold
from pipelines.bases.layout import wholes
from pipelines.bases.modelspec import (
    HASHED,
    base_title,
    clean_config,
    clean_index,
    kept_metadata,
    metadata_of,
    tokenizer_texts,
)
from pipelines.bases.reading import Stored, TensorFile
from pipelines.bases.recognise import recognise
from pipelines.bases.source import Source, open_source
from pipelines.bases.streaming import SPELLINGS, Planned, write_stream
from pipelines.bases.write_report import LAYOUTS, WriteReport
from pipelines.device import DTYPES
from pipelines.errors import BaseError, nearest
from pipelines.files import sync_folder, sync_tree

DISK_MARGIN = 64 << 20  # bytes that must stay free beside what is written


def write_base(
    source: Source,
    path: str | Path,
    *,
    layout: str = "file",
    dtype: str | None = None,
    mix: Mix | None = None,
    title: str = "",
) -> WriteReport:
    """Write a base, with a mix folded into its weights, and prove it by reading it back.

    source: what `open_source` found; a VAE of one's own in it becomes the base's. layout: a key of LAYOUTS.
    dtype: a key of DTYPES; None keeps each tensor's own (folded sums are rounded to it once). mix: adapters
    and weights by name. title: empty: made of the base's and the adapters' names.

    Raises: BaseError, AdapterError in one line; nothing is left of the new base then.
    """
    path = Path(path)
    _check_place(path, layout, dtype)
    if source.prediction_type is None:
        raise BaseError(
            f"what base {source.ref!r} predicts isn't told by its file; say epsilon or v_prediction"
        )
    fold = plan_fold(source, mix or {})
    model = _Model(source, fold, None if dtype is None else DTYPES[dtype])
    _check_disk(path, model)
    trial = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(4)}.writing{path.suffix}")
    names = [f"{name} {weights.unet:g}" for name, weights in fold.weights.items()]
    title = title or " + ".join([base_title(source), *names])
    try:
        if layout == "file":
            model.write_file(trial, title, names)
        else:
            model.write_folder(trial, title, names)
        written = open_source(trial)
        equal = _count_equal(written, model)
        if equal != len(model.planned):
            raise BaseError(
                f"writing {path.name!r} failed: {equal} of {len(model.planned)} tensors came back equal; "
                "nothing was kept, check the disk"
            )
        report = WriteReport(
            path=str(path), layout=layout, family=source.family.label, dtype=dtype or "as stored",
            sha256=written.sha256, bytes=_size(trial), tensors=len(model.planned), equal=equal,
            changed=model.changed, adapters={name: weights.pair for name, weights in fold.weights.items()},
            published=layout != "file" or recognise(TensorFile(trial).header, trial).other_sizes is None,
        )  # fmt: skip
        sync_tree(trial)
        os.rename(trial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise BaseError(f"{path.name!r} can't be written: {error.strerror or error}") from None
    finally:
        _remove(trial)
    return report


class _Model:
    """A source's tensors as they will be written, made anew at every call."""

    def __init__(self, source: Source, fold: Fold, dtype: torch.dtype | None) -> None:
        self.source, self.fold, self.dtype = source, fold, dtype
        # Maps of its own: what a loaded base uses of the source's stays as it is when pages are given back.
        files: dict[Path, TensorFile] = {}
        self.states: dict[str, dict[str, Stored]] = {part: {} for part in source.networks}
        for part in source.networks:
            for key, stored in source.state(part).items():
                if key.endswith("position_ids"):  # not a weight, and not saved any more
                    continue
                where = stored.file.path
                if where not in files:
                    files[where] = TensorFile(where)
                self.states[part][key] = Stored(files[where], stored.piece)
        self.planned = {
            (part, key): Planned(self._kind(stored.dtype), stored.shape)
            for part, state in self.states.items()
            for key, stored in state.items()
        }
        self.changed = sum(fold.changes(part, key) for part, key in self.planned)

    def _kind(self, stored: torch.dtype) -> torch.dtype:
        if self.dtype is not None:
            return self.dtype
        return stored if stored in SPELLINGS else torch.float32

    def make(self, part: str, key: str) -> torch.Tensor:
        """Return one tensor, folded and in its final precision.

        Raises: BaseError for numbers that are none, or that don't fit into that precision.
        """
        stored = self.states[part][key]
        own = stored.view()
        value = self.fold.value(part, key, own).to(self.planned[part, key].dtype)
        if not bool(value.isfinite().all()):
            if not bool(own.float().isfinite().all()):
                raise BaseError(
                    f"base {self.source.ref!r} is damaged: {part}.{key} holds NaN or infinity; fetch it again"
                )
            if value.dtype != own.dtype or self.fold.changes(part, key):
                kind = next((name for name, row in DTYPES.items() if row == value.dtype), str(value.dtype))
                raise BaseError(
                    f"{part}.{key} has numbers too large for {kind}; write bf16 or fp32, or lower the weights"
                )
        if value.dtype != own.dtype or self.fold.changes(part, key):
            stored.release()
        elif value is own:
            value = own.clone()
            stored.release()
        return value

    def write_file(self, path: Path, title: str, names: list[str]) -> None:
        """Write one file in the original layout."""
        shapes = {
            part: {key: stored.shape for key, stored in state.items()} for part, state in self.states.items()
        }
        made = wholes(shapes, self.source.family)
        planned: dict[str, Planned] = {}
        for name, whole in made.items():
            empty = whole.make(self._empty)
            planned[name] = Planned(empty.dtype, tuple(empty.shape))
        marks = _marks(self.source)
        planned |= {mark: Planned(torch.float32, (0,)) for mark in marks}
        metadata = metadata_of(self.source, title, names)

        def make(name: str) -> torch.Tensor:
            return torch.empty(0) if name in marks else made[name].make(self.make)

        write_stream(path, planned, make, metadata, hashed=HASHED)

    def _empty(self, part: str, key: str) -> torch.Tensor:
        row = self.planned[part, key]
        return torch.empty(row.shape, dtype=row.dtype, device="meta")

    def write_folder(self, path: Path, title: str, names: list[str]) -> None:
        """Write a diffusers folder."""
        path.mkdir()
        family = self.source.family
        encoders = {row.component: row for row in family.text_encoders}
        metadata = {**kept_metadata(self.source), "format": "pt", "modelspec.title": title}
        if names:
            metadata["modelspec.merged_from"] = ", ".join([base_title(self.source), *names])
        for part, state in self.states.items():
            (path / part).mkdir()
            # transformers 4 knows a text encoder's tensors with `text_model.` alone, 5 takes both.
            lead = "text_model." if part in encoders and not encoders[part].prefixed else ""
            planned = {f"{lead}{key}": self.planned[part, key] for key in state}
            stem = "model" if part in encoders else "diffusion_pytorch_model"

            def make(name: str, part: str = part, lead: str = lead) -> torch.Tensor:
                return self.make(part, name.removeprefix(lead))

            write_stream(path / part / f"{stem}.safetensors", planned, make, metadata)
            _write_json(path / part / "config.json", self._config(part))
        for name, where in self.source.tokenizers.items():
            (path / name).mkdir()
            for file, text in tokenizer_texts(where).items():
                _write_text(path / name / file, text)
        (path / "scheduler").mkdir()
        scheduler = clean_config(self.source.configs["scheduler"])
        _write_json(path / "scheduler" / "scheduler_config.json", scheduler)
        _write_json(path / "model_index.json", clean_index(self.source))

    def _config(self, part: str) -> dict[str, Any]:
        """A network's config; transformers loads a model in the precision that its config names."""
        config = clean_config(self.source.configs[part])
        if self.dtype is not None:
            for key in ("dtype", "torch_dtype"):
                if key in config:
                    config[key] = str(self.dtype).removeprefix("torch.")
        return config


def _marks(source: Source) -> tuple[str, ...]:
    """The empty tensors by which A1111 and ComfyUI know what a family's published models don't predict."""
    marks = []
    if source.prediction_type == "v_prediction" != source.family.prediction_types[-1]:
        marks.append("v_pred")
        if source.configs["scheduler"].get("rescale_betas_zero_snr"):
            marks.append("ztsnr")
    return tuple(marks)


def _count_equal(written: Source, model: _Model) -> int:
    """How many tensors of a base that was read back are bit for bit what they should be."""
    equal = 0
    for part, key in model.planned:
        found = written.state(part).get(key)
        if found is None:
            continue
        there, wanted = found.view(), model.make(part, key)
        same = there.dtype == wanted.dtype and there.shape == wanted.shape
        equal += same and bool(torch.equal(_bits(there), _bits(wanted)))
        found.release()
    surplus = sum(len(written.state(part)) for part in written.networks) - len(model.planned)
    return equal - max(0, surplus)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _check_place(path: Path, layout: str, dtype: str | None) -> None:
    if layout not in LAYOUTS:
        raise BaseError(f"unknown layout {layout!r}{nearest(layout, LAYOUTS)}")
    if dtype is not None and dtype not in DTYPES:
        raise BaseError(f"unknown precision {dtype!r}{nearest(dtype, DTYPES)}")
    if layout == "file" and path.suffix != ".safetensors":
        raise BaseError(f"{path.name!r} can't be a base's file; expected a name ending in .safetensors")
    if not path.name or not path.absolute().parent.is_dir():
        raise BaseError(f"folder {str(path.absolute().parent)!r} isn't there; make it first")
    if path.exists() or path.is_symlink():
        raise BaseError(f"{str(path)!r} is there already; choose another name, or remove it first")


def _check_disk(path: Path, model: _Model) -> None:
    needed = sum(row.nbytes for row in model.planned.values()) + DISK_MARGIN
    free = shutil.disk_usage(path.absolute().parent).free
    if free < needed:
        raise BaseError(
            f"{path.name!r} needs {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} are free in "
            f"{str(path.absolute().parent)!r}; make room or choose another folder"
        )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(value, indent=2, default=list) + "\n")


def _write_text(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
