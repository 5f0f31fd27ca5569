"""`pigment bench methods`: every way to train, taught the same pictures on the embedded base."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, nearest
from pipelines.files import write_atomic
from trainers.bench.method_table import HEADINGS, as_markdown, as_picture, as_text, pictures_grid
from trainers.bench.records import Arguments, answer, check_place, provenance, short
from trainers.bench.teaching import Task, lay_out, work

if TYPE_CHECKING:
    from PIL.Image import Image

RECORD = Path(__file__).resolve().parents[2] / "tests" / "bench" / "results" / "methods.json"


def parser() -> Arguments:
    """The command's arguments."""
    made = Arguments(
        prog="pigment bench methods",
        description="Teach the embedded base an example subject by every method, each in a process of its "
        "own, and measure what came of it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--methods", nargs="+", metavar="ID", help="only these; all if not given")
    made.add_argument("--steps", type=int, default=60, help="of each training")
    made.add_argument("--rank", type=int, default=8, help="of methods that have one")
    made.add_argument("--batch-size", type=int, default=2, help="pictures per step; one class picture on top")
    made.add_argument("--subject", default="mascot", help="example that is taught")
    made.add_argument("--samples", type=int, default=2, help="pictures per held-out scene that are judged")
    made.add_argument("--seed", type=int, default=0, help="of trainings and pictures")
    made.add_argument("--base", default="pocket", help="pocket, or a folder with the judge's image tower")
    made.add_argument("--device", help="cpu, cuda, …; the first of CUDA, MPS, XPU, CPU if not given")
    made.add_argument("--jobs", type=int, default=2, help="processes of one thread at a time")
    made.add_argument(
        "--table", type=Path, nargs="+", default=[], help="write the table to these files, .md or .png"
    )
    made.add_argument("--grid", type=Path, help="write one prompt's pictures to this PNG file")
    made.add_argument("--out", type=Path, help="write the figures to this JSON file")
    made.add_argument(
        "--record", action="store_true", help="keep them in tests/bench/results/methods.json too"
    )
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure for a command line; 0, 1 where a method failed, or 2 after one line that says what to do."""
    failed: dict[str, str] = {}

    def measure(options: argparse.Namespace) -> dict[str, Any]:
        _check(options)
        report, broken = run(options)
        failed.update(broken)
        return report

    code = answer("methods", parser(), argv, measure, RECORD, table="methods")
    for method, why in failed.items():
        print(f"pigment bench methods: {method} failed: {why}", file=sys.stderr)
    return code or int(bool(failed))


def _check(options: argparse.Namespace) -> None:
    from pipelines.methods import TUNINGS

    for name in ("steps", "rank", "batch_size", "samples", "jobs"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    for method in options.methods or ():
        if method not in TUNINGS:
            raise ConfigError(f"unknown method {method!r}{nearest(method, TUNINGS)}")
    files: list[tuple[str, Path, tuple[str, ...]]] = [
        ("table", file, (".md", ".png")) for file in options.table
    ]
    files += [("grid", options.grid, (".png",))] if options.grid else []
    for name, file, endings in files:
        if file.suffix not in endings:
            raise ConfigError(f"--{name} is {file.name!r}; give a name ending in {' or '.join(endings)}")
    if options.record:
        check_place(RECORD)


def run(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure every method asked for: the report, and why what failed did. Raises: ConfigError."""
    from pipelines.methods import TUNINGS

    methods = list(dict.fromkeys(options.methods or TUNINGS))
    figures: dict[str, dict[str, Any]] = {}
    shown: dict[str, list[Image]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method, found, pictures in _results(methods, options, Path(folder)):
            if why := found.get("failed"):
                failed[method or "base"] = why
                continue
            figures[method or "base"], shown[method or "base"] = short(found), pictures
            if not options.json:
                print(as_text({method or "base": figures[method or "base"]}, heading=len(figures) == 1))
    base = figures.pop("base", {})
    ordered = {method: figures[method] for method in methods if method in figures}
    labels = {"base": "base alone"} | {method: TUNINGS[method].label for method in ordered}
    for file in options.table if ordered else ():
        _save_table(file, ordered, base, labels)
    if options.grid and shown:
        kept = {method: shown[method] for method in labels if method in shown}
        _save(options.grid, pictures_grid(kept, labels))
    report = {"methods": ordered, "base": base, **provenance("methods", parser(), options)}
    return report, failed


def _results(methods: Sequence[str], options: argparse.Namespace, folder: Path) -> Any:
    """Yield (method or None, figures, pictures) in the order in which they are done."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    example = lay_out(options.subject, folder / "pictures")
    fields = {name: getattr(options, name)
              for name in ("base", "steps", "rank", "batch_size", "samples", "seed", "device")}  # fmt: skip
    tasks = [Task(method=m, example=example, runs=folder / "runs", **fields) for m in (None, *methods)]
    # A process for each: what one has grown by is then its own.
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        asked = {pool.submit(work, task): task.method for task in tasks}
        for future in as_completed(asked):
            yield asked[future], *future.result()


def _save_table(
    file: Path, figures: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any], labels: Mapping[str, str]
) -> None:
    if file.suffix == ".png":
        _save(file, as_picture(figures, base, labels))
    else:
        write_atomic(file, [as_markdown(figures, base, labels).encode()])


def _save(file: Path, picture: Image) -> None:
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG", optimize=True)
    write_atomic(file, [encoded.getvalue()])


__all__ = ["HEADINGS", "RECORD", "main", "parser", "run"]


if __name__ == "__main__":
    sys.exit(main())
