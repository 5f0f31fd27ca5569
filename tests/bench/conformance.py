"""Every form × family × method, written and loaded by other libraries: `python -m tests.bench.conformance`.

Adapters of random factors on tiny random models of each family, fp16. `--record` keeps the figures in
`results/conformance.json`; `--short` takes one method per form for SD 2.x and SDXL.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.adapter import Adapter
from pipelines.base import Base, load_base
from pipelines.errors import StudioError
from pipelines.export import ExportReport, export_adapter
from pipelines.families import FAMILIES
from pipelines.formats import FORMATS
from pipelines.methods import METHODS
from tests.pipelines.making import ON_NORMS, WITH_DELTA, modules_for, random_adapter_of
from tests.tiny import save_tiny_pipeline
from trainers.evidence.provenance import machine, versions

RESULT = Path(__file__).parent / "results" / "conformance.json"
AS_LORA_RANK = 64  # more than any tiny layer needs, so that only rounding is left


def combinations(short: bool = False) -> Iterator[tuple[str, str, str, bool]]:
    """(family, form, method, as plain LoRA) of everything that can be written."""
    for family in FAMILIES:
        for form, row in FORMATS.items():
            held = [method for method in METHODS if row.holds(method)]
            if short and family != "sd15":
                held = [method for method in held if method in ("lora", "loha")]
            yield from ((family, form, method, False) for method in held)
        plain = [method for method in WITH_DELTA if method not in ("lora", *ON_NORMS)]
        others = [] if short and family != "sd15" else plain
        yield from ((family, "kohya", method, True) for method in others)


def fitting_modules(base: Base, form: str, method: str) -> list[str]:
    """Where a method can sit so that the library behind a form can run it at all.

    PEFT 0.21's OFT fails on kernels wider than 1×1; LyCORIS reads Tucker cores on those alone.
    """
    layers: dict[str, Any] = dict(base.weighted())
    found = modules_for(base, method)
    if form == "peft" and method == "oft":
        return [name for name in found if layers[name].weight.shape[2:] in ((), (1, 1))]
    if method.startswith("locon"):
        return [name for name in found if layers[name].weight.shape[2:] == (3, 3)]
    return found


def checked(base: Base, adapter: Adapter, form: str, folder: Path, as_lora: bool) -> ExportReport:
    """Export an adapter with every check. Raises: AdapterError where one fails."""
    path = folder / ("adapter" if FORMATS[form].kind == "folder" else "adapter.safetensors")
    rank = AS_LORA_RANK if as_lora else None
    return export_adapter(adapter, path, form, "fp16", base, as_lora=rank, allow_left_out=as_lora)


def figures(base: Base, form: str, method: str, as_lora: bool, folder: Path) -> dict[str, Any]:
    """What one combination measured, or why it failed."""
    adapter = random_adapter_of(base, method, fitting_modules(base, form, method))
    start = {"family": base.family.id, "format": form, "method": f"{method} as lora" if as_lora else method}
    try:
        report = checked(base, adapter, form, folder, as_lora)
    except StudioError as error:
        return {**start, "error": str(error)}
    return {
        **start,
        "keys_written": report.keys_written,
        "keys_matched": report.keys_matched,
        "delta_error": float(f"{report.delta_error:.2e}"),
        "lora_error": None if report.lora_error is None else float(f"{report.lora_error:.2e}"),
        "independent_formula": report.independent,
        "left_out": report.left_out,
        "loaded_by": report.loaded_by,
        "loaded_modules": report.loaded_modules,
        "modules": report.modules,
        "loaded_error": None if report.loaded_error is None else float(f"{report.loaded_error:.2e}"),
        "psnr_db": report.as_dict()["psnr_db"],
    }


def main() -> int:
    """Measure, print a line each, and tell by the exit code whether all passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        bases: dict[str, Base] = {}
        for family, form, method, as_lora in combinations(args.short):
            if family not in bases:
                folder = save_tiny_pipeline(Path(name) / family, family=family)
                bases = {family: load_base(folder, device="cpu")}
            rows.append(figures(bases[family], form, method, as_lora, Path(name)))
            print(json.dumps(rows[-1]), flush=True)
    failed = [row for row in rows if "error" in row]
    print(f"{len(rows) - len(failed)} of {len(rows)} combinations passed")
    if args.record:
        about = {
            "models": "tiny random pipelines of tests/tiny.py", "precision": "fp16",
            "date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions(),
            "command": "python -m tests.bench.conformance --record",
        }  # fmt: skip
        lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
        head = json.dumps(about, indent=2)[:-2]
        RESULT.write_text(f'{head},\n  "results": [\n{lines}\n  ]\n}}\n')
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
