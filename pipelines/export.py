"""Export: write an adapter, read it back by other ways, and keep it only where everything agrees."""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter
from pipelines.conformance import check_file, check_loaded
from pipelines.errors import AdapterError, nearest
from pipelines.files import sync_folder
from pipelines.formats import FORMATS, write_adapter
from pipelines.methods import METHODS

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.lora_report import LoraReport
    from pipelines.lowrank import RankRule

# Largest relative Frobenius error of ΔW that rounding may cause: fp16 keeps 11 bits, bf16 8. Twice that
# where ΔW is the difference of two weights (DoRA, OFT …), whose rounding counts against the smaller ΔW.
MAX_DELTA_ERROR = {"fp16": 1e-3, "bf16": 8e-3, "fp32": 1e-5}
MIN_PSNR_DB = 35.0


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an exported file was measured to be.

    method: of the modules written. keys_written: tensors found in the file; keys_matched: those that
    were expected; keys_expected: how many there should be. delta_error, delta_error_total: relative
    Frobenius error of ΔW, of the worst module and of all together. independent: whether that ΔW came
    from formulas of their own; else from Pigment's reader. depends_on_base: whether some module's ΔW
    is the difference of two weights. sha256: of the file (a folder: of its files);
    bytes: its size. lora_error, lora_error_worst: where the adapter was turned into plain LoRA, how far
    its ΔW is from the original's, None otherwise; lora_errors: the same per module; left_out: of how
    many modules biases or norms were lost then.
    Where a base was given and another library reads the form, and None otherwise: loaded_by, its name;
    loaded_modules, of `modules`, that it put the adapter on; loaded_error, the worst error of the ΔW it
    applies; psnr_db, between one seed's picture by the mixer and by diffusers with the file loaded so
    (infinity where they are equal).
    """

    path: str
    format: str
    method: str
    dtype: str
    sha256: str
    bytes: int
    modules: int
    keys_written: int
    keys_matched: int
    keys_expected: int
    delta_error: float
    delta_error_total: float
    independent: bool
    depends_on_base: bool = False
    lora_error: float | None = None
    lora_error_worst: float | None = None
    lora_errors: Mapping[str, float] = field(default_factory=dict)
    left_out: int = 0
    loaded_by: str | None = None
    loaded_modules: int | None = None
    loaded_error: float | None = None
    psnr_db: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON; an infinite PSNR becomes the text "inf"."""
        report = asdict(self)
        if self.psnr_db is not None and math.isinf(self.psnr_db):
            report["psnr_db"] = "inf"
        return report

    def as_text(self) -> str:
        """Return the report for people, one finding a line."""
        row = FORMATS[self.format]
        how = "" if self.independent else ", by Pigment's own reader"
        lines = [
            f"{Path(self.path).name}: {row.label}, {self.dtype}, {self.bytes:,} bytes",
            f"for {row.readers}",
            f"keys: {self.keys_matched}/{self.keys_expected}",
            f"ΔW error: {self.delta_error:.1e} in the worst module, {self.delta_error_total:.1e} in all{how}",
        ]
        if self.lora_error is not None:
            lines.append(
                f"as plain LoRA: ΔW is {self.lora_error:.1e} off the original in all, "
                f"{self.lora_error_worst:.1e} in the worst module"
            )
        if self.left_out:
            lines.append(f"left out, plain LoRA can't hold it: biases or norms of {self.left_out} modules")
        if self.psnr_db is not None:
            picture = "identical" if math.isinf(self.psnr_db) else f"{self.psnr_db:.1f} dB"
            lines.append(
                f"loaded by {self.loaded_by}: {self.loaded_modules}/{self.modules} modules, "
                f"ΔW error {self.loaded_error:.1e}, picture against the mixer's: {picture}"
            )
        lines.append(f"SHA-256: {self.sha256}")
        return "\n".join(lines)

    def problem(self) -> str | None:
        """Say which figure isn't good enough, or None."""
        allowed = MAX_DELTA_ERROR[self.dtype] * (2 if self.depends_on_base else 1)
        if not self.keys_matched == self.keys_written == self.keys_expected:
            back = f"{self.keys_matched} of {self.keys_expected} keys came back"
            return f"{back}, {self.keys_written} are in the file"
        if not self.delta_error <= allowed:
            return f"ΔW came back with an error of {self.delta_error:.1e}, at most {allowed:g}"
        if self.loaded_modules is not None and self.loaded_modules != self.modules:
            return f"{self.loaded_by} loads {self.loaded_modules} of {self.modules} modules"
        if self.loaded_error is not None and not self.loaded_error <= allowed:
            return (
                f"{self.loaded_by} applies ΔW with an error of {self.loaded_error:.1e}, at most {allowed:g}"
            )
        if self.psnr_db is not None and not self.psnr_db >= MIN_PSNR_DB:
            return (
                f"{self.loaded_by} draws another picture with it ({self.psnr_db:.1f} dB, at least "
                f"{MIN_PSNR_DB:g})"
            )
        return None


def export_adapter(
    adapter: Adapter,
    path: str | Path,
    format: str = "kohya",
    dtype: str = "fp16",
    base: Base | None = None,
    *,
    as_lora: int | RankRule | None = None,
    allow_left_out: bool = False,
) -> ExportReport:
    """Write an adapter file and prove it: keys, ΔW, and what another library makes of it.

    The file (or folder) is written beside `path` under another name, checked, and renamed when all
    agrees. format: a key of FORMATS. dtype: "fp16", "bf16", "fp32". base: where given, a fresh diffusers
    pipeline of that base's folder loads the file, and one seed's picture is compared. as_lora: turn any
    method into plain LoRA first, by SVD of ΔW at this rank (or by a rule), and state the error.
    allow_left_out: whether changes of biases and norms, which plain LoRA can't hold, may be left out then.

    Raises: AdapterError when anything can't be written or a check fails; nothing is left of the new
    file then, and an older one of the same name is as it was.
    """
    path = Path(path)
    if format not in FORMATS:
        raise AdapterError(f"unknown format {format!r}{nearest(format, FORMATS)}")
    file = FORMATS[format].kind == "file"
    if file and path.suffix != ".safetensors":
        raise AdapterError(f"{path.name!r} can't be an adapter file; expected a name ending in .safetensors")
    if not file and path.suffix:
        raise AdapterError(f"{path.name!r} can't be an adapter folder; expected a name without an ending")
    if not path.name:
        raise AdapterError(f"{str(path)!r} names no folder to make; give it a name of its own")
    if not file and path.exists() and not _only_peft(path):
        raise AdapterError(
            f"{path.name!r} is there already and holds more than an adapter; choose another name"
        )
    if base is not None:
        adapter.check(base)
    lora: LoraReport | None = None
    if as_lora is not None:
        from pipelines.tools import as_lora as plain

        adapter, lora = plain(adapter, as_lora, base, allow_left_out=allow_left_out)
    trial = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(4)}.checking{path.suffix}")
    try:
        sha256 = write_adapter(adapter, trial, format, dtype)
        read = check_file(adapter, trial, format, base)
        loaded = None if base is None else check_loaded(adapter, trial, format, base)
        report = ExportReport(
            path=str(path),
            format=format,
            method=", ".join(adapter.methods) or "learned tokens",
            dtype=dtype,
            sha256=sha256,
            bytes=_size(trial),
            modules=read.modules + sum(len(vectors) for vectors in adapter.tokens.values()),
            keys_written=read.keys,
            keys_matched=read.matched,
            keys_expected=read.expected,
            delta_error=read.worst,
            delta_error_total=read.total,
            independent=read.independent,
            depends_on_base=any(METHODS[method].needs_weight for method in adapter.methods),
            lora_error=lora.error if lora else None,
            lora_error_worst=lora.worst[1] if lora else None,
            lora_errors={name: fit.error for name, fit in lora.modules.items()} if lora else {},
            left_out=len(lora.left_out) if lora else 0,
            loaded_by=loaded.library if loaded else None,
            loaded_modules=loaded.modules if loaded else None,
            loaded_error=loaded.worst if loaded else None,
            psnr_db=loaded.psnr_db if loaded else None,
        )
        if problem := report.problem():
            raise AdapterError(f"export of {adapter.name!r} failed: {problem}; nothing was kept, try fp32")
        _put(trial, path)
    except OSError as error:
        raise AdapterError(f"{path.name!r} can't be written: {error.strerror or error}") from None
    finally:
        _remove(trial)
    return report


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _only_peft(path: Path) -> bool:
    """Whether a folder holds nothing but what an export of a folder writes, so that it may be replaced."""
    names = {"adapter_config.json", "adapter_model.safetensors"}
    return path.is_dir() and all(file.is_dir() or file.name in names for file in path.rglob("*"))


def _put(trial: Path, path: Path) -> None:
    """Put the checked file or folder in the place of an older one, which is gone only afterwards."""
    old = None
    if trial.is_dir() and path.exists():
        old = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.old")
        path.rename(old)
    try:
        trial.replace(path)
    except OSError:
        if old is not None:
            old.rename(path)
        raise
    sync_folder(path.parent)
    if old is not None:
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
