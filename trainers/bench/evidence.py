"""`pigment bench evidence`: whether the checkpoint that is recommended is the one to take."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from pipelines.files import write_atomic
from trainers.bench.concepts import PROOF
from trainers.bench.evidence_runs import POOLS, SHORT_RUNS, Place, pool, run_all
from trainers.bench.evidence_table import as_markdown, as_text, outcome, said, summary
from trainers.bench.records import Arguments, answer, check_place, provenance, short, write

RECORD = Path(__file__).resolve().parents[2] / "tests" / "bench" / "results" / "evidence.json"


def parser() -> Arguments:
    """The command's arguments."""
    made = Arguments(
        prog="pigment bench evidence",
        description="Teach the embedded base subjects and styles made for the purpose, score every candidate "
        "on pictures that no run has seen, and hold the recommended ones against the best and the last ones. "
        "Runs that lie there scored aren't run again, only judged.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument(
        "--pool", choices=POOLS, default=PROOF,
        help="which runs: the rule was worked out on dev and test; proof has only been scored",
    )  # fmt: skip
    made.add_argument("--only", nargs="+", default=[], metavar="RUN", help="only these; all if not given")
    made.add_argument("--short", action="store_true", help=f"{SHORT_RUNS} runs of few steps, to try it out")
    made.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="folder of the trainings")
    made.add_argument("--device", default="cpu", help="cpu, cuda, …")
    made.add_argument("--jobs", type=int, default=2, help="processes of one thread at a time")
    made.add_argument("--table", type=Path, help="write the table to this .md file")
    made.add_argument("--out", type=Path, help="write the figures to this JSON file")
    made.add_argument(
        "--record", action="store_true", help="keep them in tests/bench/results/evidence.json too"
    )
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure for a command line; 0, 1 where a run failed, or 2 after one line that says what to do."""
    failed: dict[str, str] = {}

    def measure(options: argparse.Namespace) -> dict[str, Any]:
        _check(options)
        report, broken = run(options)
        failed.update(broken)
        if options.record and failed:
            raise ConfigError(f"{next(iter(failed))} failed, so nothing was recorded; run again")
        if options.table:
            write_atomic(options.table, [as_markdown(report["table"]).encode()])
        return report

    code = answer("evidence", parser(), argv, measure, RECORD, keep=merge)
    for id, why in failed.items():
        print(f"pigment bench evidence: {id} failed: {why}", file=sys.stderr)
    return code or int(bool(failed))


def _check(options: argparse.Namespace) -> None:
    if options.jobs < 1:
        raise ConfigError(f"--jobs is {options.jobs}; give at least 1")
    if options.table and options.table.suffix != ".md":
        raise ConfigError(f"--table is {options.table.name!r}; give a name ending in .md")
    pool(options.pool, options.only)
    if options.record:
        if options.only or options.short or options.pool != PROOF:
            raise ConfigError("--record keeps the figures of all runs of pool proof; leave the others out")
        check_place(RECORD)


def run(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Run, score and judge what is asked for: the report, and why what failed did. Raises: ConfigError."""
    runs = pool(options.pool, options.only)
    if options.short:
        runs = [one.shortened() for one in (runs if options.only else runs[:SHORT_RUNS])]
    place = Place(options.runs / "short" if options.short else options.runs)
    failed = {}
    for done, (one, why) in enumerate(run_all(runs, place.folder, options.jobs, options.device), 1):
        if why:
            failed[one.id] = why
        elif not options.json:
            print(f"{done}/{len(runs)} {one.id}", flush=True)
    judged = {one.id: outcome(one, place.run(one)) for one in runs if one.id not in failed}
    rows = {id: row for id, row in judged.items() if row is not None}
    if not rows:
        raise ConfigError(
            f"none of {len(runs)} runs could be judged; first: {next(iter(failed.values()), '')}"
        )
    figures = summary(rows)
    if not options.json:
        print(f"{as_text(rows)}\n{said(figures)}")
    report = {**short(figures), "table": short(rows), **provenance("evidence", parser(), options)}
    return report, failed


def merge(report: dict[str, Any], path: Path) -> None:
    """Keep the figures in the checkout, beside what other measurements keep in the same file."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    write(path, {**kept, **report})


__all__ = ["RECORD", "main", "parser", "run"]


if __name__ == "__main__":
    sys.exit(main())
