"""`pigment bench studio`: the page's start, the live preview, many clients, the way to a first adapter."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from studio.bench import pages, preview, status
from trainers.bench.records import Arguments, answer, check_place, provenance, short

RECORD = Path(__file__).resolve().parents[2] / "tests" / "bench" / "results" / "studio.json"
ORIGIN = ("date", "machine", "versions", "command")
PARTS = ("opening", "rest", "preview", "status", "first")


def parser() -> Arguments:
    """The command's arguments."""
    made = Arguments(
        prog="pigment bench studio",
        description="Measure the studio on the embedded base: the page's start, the live preview, many "
        "clients beside a training, and the minutes to a first adapter.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    made.add_argument("--rounds", type=int, default=3, help="starts of the page, and turns of polling")
    made.add_argument("--moves", type=int, default=40, help="of a slider, each after a rest")
    made.add_argument("--drag", type=float, default=10.0, help="seconds of a drag, 20 moves a second")
    made.add_argument("--clients", type=int, default=50, help="that ask for the jobs' state once a second")
    made.add_argument(
        "--seconds", type=float, default=15.0, help="of a turn with clients, and of one without"
    )
    made.add_argument("--out", type=Path, help="write the figures to this JSON file")
    made.add_argument(
        "--record", action="store_true", help="keep them in tests/bench/results/studio.json too"
    )
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure for a command line; 0, or 2 after one line that says what to do."""
    return answer("studio", parser(), argv, run, RECORD, "parts")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every part asked for; with `--record` the figures of the others stay as they were.

    Raises: ConfigError, StudioError.
    """
    for name in ("rounds", "moves", "drag", "clients", "seconds"):
        if getattr(options, name) <= 0:
            raise ConfigError(f"--{name} is {getattr(options, name)}; give more than 0")
    if options.record:
        check_place(RECORD)
    ways = {
        "opening": lambda: pages.opening(options.rounds),
        "rest": lambda: pages.at_rest(options.seconds),
        "preview": lambda: preview.measure(options.moves, options.drag),
        "status": lambda: status.measure(options.clients, options.seconds, options.rounds),
        "first": pages.first_adapter,
    }
    measured = {name: short(ways[name]()) for name in options.part or PARTS}
    kept: dict[str, Any] = {}
    if options.record and RECORD.is_file():
        kept = json.loads(RECORD.read_text(encoding="utf-8"))["parts"]
    figures: dict[str, Any] = {}
    for part in {**kept, **measured}.values():
        figures.update({name: value for name, value in part.items() if name not in ORIGIN})
    return {**figures, "parts": measured, **provenance("studio", parser(), options)}
