"""`pigment bench overhead`: what measuring a run costs it, and that it changes nothing of what is learned."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipelines.base import ASSETS
from pipelines.errors import ConfigError
from trainers.bench.evidence import RECORD, merge
from trainers.bench.records import Arguments, answer, check_place, provenance, short
from trainers.config import PRESET_NAMES

if TYPE_CHECKING:
    from trainers.config import TrainConfig

WITHOUT: dict[str, Any] = {"evaluate_every": 0, "samples": 0, "report": False, "candidates": 0}
"""A run that measures nothing: settings by name."""


def parser() -> Arguments:
    """The command's arguments."""
    made = Arguments(
        prog="pigment bench overhead",
        description="Teach the example “mascot” with everything measured and with nothing, in turns, with "
        "previews on both sides and caches filled; losses and last steps must be the same bit for bit.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--preset", choices=PRESET_NAMES, default="standard", help="how long to teach")
    made.add_argument("--steps", type=int, help="in place of the preset's, to try it out")
    made.add_argument("--rounds", type=int, default=3, help="runs of each side")
    made.add_argument("--threads", type=int, default=2, help="CPU threads")
    made.add_argument("--device", default="cpu", help="cpu, cuda, …")
    made.add_argument("--out", type=Path, help="write the figures to this JSON file")
    made.add_argument(
        "--record", action="store_true", help="keep them in tests/bench/results/evidence.json too"
    )
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure for a command line; 0, or 2 after one line that says what to do."""

    def measured(options: argparse.Namespace) -> dict[str, Any]:
        if options.rounds < 1 or (options.steps is not None and options.steps < 1):
            raise ConfigError(f"--rounds {options.rounds}, --steps {options.steps}: give at least 1")
        if options.record:
            if options.steps is not None:
                raise ConfigError("--record keeps the figures of a whole preset; leave --steps out")
            check_place(RECORD)
        return run(options)

    return answer("overhead", parser(), argv, measured, RECORD, keep=merge)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run both sides in turns and compare. Raises: ConfigError where measuring changed what was learned."""
    sides: dict[str, dict[str, Any]] = {"with": {}, "without": WITHOUT}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    parts: dict[str, float] = {}
    with TemporaryDirectory(prefix="pigment-overhead-") as folder:
        root = Path(folder)
        _once(_config(options, root, "warm", {}))  # fills the caches, which a second run finds full
        for turn in range(options.rounds):
            curves = {}
            for name in (list(sides), list(reversed(sides)))[turn % 2]:
                config = _config(options, root, name, sides[name])
                seconds, cpu_seconds, curves[name] = _once(config)
                wall[name].append(seconds)
                cpu[name].append(cpu_seconds)
                if name == "with":
                    parts = _parts(config.run.output)
            if curves["with"] != curves["without"]:
                raise ConfigError("measuring changed the losses or the last step; that is a fault of Pigment")
            if not options.json:
                print(f"{turn + 1}/{options.rounds} {_said(wall, cpu)}", flush=True)
    each = [100 * (a / b - 1) for a, b in zip(wall["with"], wall["without"], strict=True)]
    each_cpu = [100 * (a / b - 1) for a, b in zip(cpu["with"], cpu["without"], strict=True)]
    found = {
        "preset": options.preset, "percent": median(each), "percent_spread": [min(each), max(each)],
        "cpu_percent": median(each_cpu), "cpu_percent_spread": [min(each_cpu), max(each_cpu)],
        "seconds": {name: median(times) for name, times in wall.items()}, "parts": parts,
        "losses_bitwise_the_same": True,
    }  # fmt: skip
    if not options.json:
        print(
            f"measuring costs {found['percent']:.1f}% of the run's time, {found['cpu_percent']:.1f}% of CPU"
        )
    report = {**found, **provenance("overhead", parser(), options)}
    return short({"overhead_percent": found["percent"], "overhead": report})


def _said(wall: dict[str, list[float]], cpu: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {wall[name][-1]:.1f} s (CPU {cpu[name][-1]:.1f} s)" for name in wall)


def _config(options: argparse.Namespace, root: Path, name: str, fields: dict[str, Any]) -> TrainConfig:
    from trainers.config import preset_config

    more = {} if options.steps is None else {"steps": options.steps}
    return preset_config(
        options.preset, "subject", instance_images=ASSETS / "examples" / "mascot", trigger="zib",
        instance_prompt="a photo of a zib creature", class_prompt="a photo of a creature",
        output=root / name, cache=root / "cache", threads=options.threads, device=options.device,
        take="last", **more, **fields,
    )  # fmt: skip


def _once(config: TrainConfig) -> tuple[float, float, list[float | str]]:
    """(seconds, CPU seconds, the losses and the hash of the adapter's numbers) of a run."""
    from pipelines.base import quiet
    from pipelines.formats.container import data_sha256, read_header
    from trainers.loop import train
    from trainers.run_folder import ADAPTER_NAME

    began, cpu = time.perf_counter(), time.process_time()
    with quiet():
        events = list(train(config, resume=False))
    took = time.perf_counter() - began, time.process_time() - cpu
    losses: list[float | str] = [event.data["loss"] for event in events if event.kind == "step"]
    # Of the numbers alone: the metadata beside them have the settings, which differ.
    adapter = config.run.output / ADAPTER_NAME
    return *took, [*losses, data_sha256(adapter, read_header(adapter).data_start)]


def _parts(folder: Path) -> dict[str, float]:
    from trainers.evidence.record import read_record

    record = read_record(folder)
    return dict(record.seconds) if record is not None else {}


if __name__ == "__main__":
    sys.exit(main())
