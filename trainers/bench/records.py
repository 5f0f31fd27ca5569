"""Figures as JSON files that say where they come from."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, StudioError
from pipelines.files import write_atomic
from trainers.evidence.provenance import machine, versions


def short(value: Any) -> Any:
    """Four significant digits of a float, also within lists and objects."""
    if isinstance(value, dict):
        return {name: short(item) for name, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def provenance(name: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Date, machine, versions and command of a measurement `pigment bench name`."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "command": command_line(name, parser, options),
    }


_UNSAID = frozenset(("out", "json", "table", "grid", "models", "kohya_python", "runs"))


def command_line(name: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The command that was given, without folders: only what differs from the defaults."""
    words = ["pigment", "bench", name]
    for field, default in vars(parser.parse_args([])).items():
        given = getattr(options, field)
        if given == default or field in _UNSAID:
            continue
        flag = f"--{field.replace('_', '-')}"
        if field in ("methods", "only"):
            words += [flag, *given]
            continue
        values = [_shown(value, field) for value in (given if isinstance(given, list) else [given])]
        words += [flag] if given is True else [word for value in values for word in (flag, value)]
    return " ".join(words)


def _shown(value: Any, field: str) -> str:
    """An option's value without its folder."""
    return Path(value).name if field == "model" or isinstance(value, Path) else str(value)


def write(path: Path, report: dict[str, Any]) -> None:
    """Write figures to a JSON file, whole or not at all."""
    write_atomic(path, [(json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode()])


def check_place(path: Path) -> None:
    """Raise ConfigError where there is no checkout to keep figures in."""
    if not path.parent.parent.is_dir():
        raise ConfigError("there is no tests/bench beside this Pigment to record in; run it from a clone")


def record(report: dict[str, Any], path: Path, table: str = "models") -> None:
    """Keep the figures in the checkout, beside those of models that another run measured.

    Each model says where its figures come from; at the top stands the latest run. table: what the report
    calls that which was measured.
    """
    kept: dict[str, Any] = {}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))[table]
    origin = {name: report[name] for name in ("date", "machine", "versions", "command")}
    measured = {name: {**figures, **origin} for name, figures in report[table].items()}
    path.parent.mkdir(exist_ok=True)
    write(path, {**report, table: {**kept, **measured}})


class Arguments(argparse.ArgumentParser):
    """Reports a wrong command line as one line."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see {self.prog} --help")


def answer(
    name: str,
    parser: Arguments,
    argv: Sequence[str] | None,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    place: Path | Callable[[argparse.Namespace], Path],
    table: str = "models",
    keep: Callable[[dict[str, Any], Path], None] | None = None,
) -> int:
    """Measure for a command line, keep and print what was asked for; its exit code.

    0, or 2 after one line that says what to do. place: where `--record` keeps the figures. table: see
    `record`. keep: keeps a report in a file in another way than `record`.
    """
    try:
        options = parser.parse_args(argv)
        report = measure(options)
        if options.out:
            write(options.out, report)
        if options.record:
            file = place if isinstance(place, Path) else place(options)
            keep(report, file) if keep else record(report, file, table)
        if options.json:
            print(json.dumps(report, indent=2, ensure_ascii=False))
    except StudioError as error:
        print(f"pigment bench {name}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"pigment bench {name}: {error}; choose another file with --out", file=sys.stderr)
        return 2
    return 0
