"""How long the index of 10,000 adapter files takes: `python -m tests.bench.index [--record]`.

The first listing reads every header, the second one none. Seconds are of this machine, side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from pipelines import index
from pipelines.base import ASSETS
from trainers.evidence.provenance import machine, versions

RESULT = Path(__file__).parent / "results" / "index.json"
FOLDERS, FILES = 100, 100


def fill(root: Path, cache: Path | None, source: Path) -> int:
    """Link one adapter file into many folders, remember their headers in `cache`; returns how many."""
    rows = {}
    info, error = index._inspect(source)
    for folder in range(FOLDERS):
        (root / f"{folder:02d}").mkdir(parents=True)
        for number in range(FILES):
            relative = f"{folder:02d}/{number:02d}.safetensors"
            os.link(source, root / relative)
            rows[relative] = [source.stat().st_size, source.stat().st_mtime_ns, info, error]
    if cache is not None:
        index._save(cache, root, rows)
    return len(rows)


def main() -> None:
    """Measure and print; `--record` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    example = next((ASSETS / "examples" / "adapters").glob("*.safetensors"))
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "loras", Path(folder) / "cache.json"
        source = Path(folder) / "source.safetensors"
        shutil.copy(example, source)
        files = fill(root, None, source)
        started = time.perf_counter()
        index.index_folder(root, cache)
        first = time.perf_counter() - started
        again = []
        for _ in range(5):
            started = time.perf_counter()
            assert len(index.index_folder(root, cache)) == files
            again.append(time.perf_counter() - started)
    figures = {
        "files": files,
        "first_seconds": round(first, 2),
        "again_seconds_median": round(statistics.median(again), 3),
        "again_seconds_max": round(max(again), 3),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "command": "python -m tests.bench.index --record",
    }
    print(json.dumps(figures, indent=2))
    if args.record:
        RESULT.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
