"""Export: write an adapter, read it back by other ways, and keep it only where everything agrees."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter
from pipelines.conformance import check_diffusers, check_file
from pipelines.errors import AdapterError
from pipelines.files import sync_folder
from pipelines.formats import FORMATS, write_adapter

if TYPE_CHECKING:
    from pipelines.base import Base

# Largest relative Frobenius error of ΔW that rounding may cause: fp16 keeps 11 bits, bf16 8.
MAX_DELTA_ERROR = {"fp16": 1e-3, "bf16": 8e-3, "fp32": 1e-5}
MIN_PSNR_DB = 35.0


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an exported file was measured to be.

    keys_written: tensors found in the file; keys_matched: those that were expected; keys_expected:
    how many there should be. delta_error, delta_error_total: relative Frobenius error of ΔW, of the
    worst module and of all together. sha256: of the file; bytes: its size.
    Where a base was given, and None otherwise: diffusers_modules, of `modules`, that diffusers put
    the adapter on; diffusers_error, the worst error of the ΔW it applies; psnr_db, between one
    seed's picture by the mixer and by diffusers (infinity where they are equal).
    """

    path: str
    format: str
    dtype: str
    sha256: str
    bytes: int
    modules: int
    keys_written: int
    keys_matched: int
    keys_expected: int
    delta_error: float
    delta_error_total: float
    diffusers_modules: int | None = None
    diffusers_error: float | None = None
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
        lines = [
            f"{Path(self.path).name}: {row.label}, {self.dtype}, {self.bytes:,} bytes",
            f"for {row.readers}",
            f"keys: {self.keys_matched}/{self.keys_expected}",
            f"ΔW error: {self.delta_error:.1e} in the worst module, {self.delta_error_total:.1e} in all",
        ]
        if self.psnr_db is not None:
            picture = "identical" if math.isinf(self.psnr_db) else f"{self.psnr_db:.1f} dB"
            lines.append(
                f"loaded by diffusers: {self.diffusers_modules}/{self.modules} modules, "
                f"ΔW error {self.diffusers_error:.1e}, picture against the mixer's: {picture}"
            )
        lines.append(f"SHA-256: {self.sha256}")
        return "\n".join(lines)

    def problem(self) -> str | None:
        """Say which figure isn't good enough, or None."""
        allowed = MAX_DELTA_ERROR[self.dtype]
        if not self.keys_matched == self.keys_written == self.keys_expected:
            back = f"{self.keys_matched} of {self.keys_expected} keys came back"
            return f"{back}, {self.keys_written} are in the file"
        if not self.delta_error <= allowed:
            return f"ΔW came back with an error of {self.delta_error:.1e}, at most {allowed:g}"
        if self.diffusers_modules is not None and self.diffusers_modules != self.modules:
            return f"diffusers loads {self.diffusers_modules} of {self.modules} modules"
        if self.diffusers_error is not None and not self.diffusers_error <= allowed:
            return f"diffusers applies ΔW with an error of {self.diffusers_error:.1e}, at most {allowed:g}"
        if self.psnr_db is not None and not self.psnr_db >= MIN_PSNR_DB:
            return (
                f"diffusers draws another picture with it ({self.psnr_db:.1f} dB, at least {MIN_PSNR_DB:g})"
            )
        return None


def export_adapter(
    adapter: Adapter,
    path: str | Path,
    format: str = "kohya",
    dtype: str = "fp16",
    base: Base | None = None,
) -> ExportReport:
    """Write an adapter file and prove it: keys, ΔW, and what diffusers makes of it.

    The file is written beside `path` under another name, checked, and renamed when all agrees.
    format: a key of FORMATS. dtype: "fp16", "bf16", "fp32". base: where given, a fresh diffusers
    pipeline of that base's folder loads the file, and one seed's picture is compared.

    Raises: AdapterError when anything can't be written or a check fails; nothing is left of the new
    file then, and an older one of the same name is as it was.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise AdapterError(f"{path.name!r} can't be an adapter file; expected a name ending in .safetensors")
    if base is not None:
        adapter.check(base)
    trial = path.with_name(f".{path.stem[:100]}.checking.safetensors")
    try:
        sha256 = write_adapter(adapter, trial, format, dtype)
        file = check_file(adapter, trial, format)
        loaded = None if base is None else check_diffusers(adapter, trial, base)
        report = ExportReport(
            path=str(path),
            format=format,
            dtype=dtype,
            sha256=sha256,
            bytes=trial.stat().st_size,
            modules=len(adapter.factors),
            keys_written=file.keys,
            keys_matched=file.matched,
            keys_expected=len(adapter.factors) * (3 if FORMATS[format].alpha_tensors else 2),
            delta_error=file.worst,
            delta_error_total=file.total,
            diffusers_modules=loaded.modules if loaded else None,
            diffusers_error=loaded.worst if loaded else None,
            psnr_db=loaded.psnr_db if loaded else None,
        )
        if problem := report.problem():
            raise AdapterError(f"export of {adapter.name!r} failed: {problem}; nothing was kept, try fp32")
        trial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise AdapterError(f"{path.name!r} can't be written: {error.strerror or error}") from None
    finally:
        trial.unlink(missing_ok=True)
    return report
