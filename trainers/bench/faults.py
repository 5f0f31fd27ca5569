"""`pigment bench faults`: whether each rule of the verdict finds its fault, and is silent otherwise.

What a run is like is told by how it was made, and by its score on pictures of the concept that it never knew
of (`evidence_truth`); never by what the rules look at. Good runs are those of `pigment bench evidence` that
are meant well and end with a score within CLEARLY of their best. Runs meant to be too much count as learned
by heart, or at too high a rate, where they end worse than that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from pipelines.files import write_atomic
from trainers.bench import evidence_runs
from trainers.bench.concepts import PROOF
from trainers.bench.evidence_runs import POOLS
from trainers.bench.evidence_truth import read_truth
from trainers.bench.fault_runs import SHARED, WORSE, pool, run_all
from trainers.bench.records import Arguments, answer, check_place, provenance, short, write
from trainers.evidence.choice import choose
from trainers.evidence.record import Record, read_record
from trainers.evidence.rules import RULES, told, verdict

RECORD = Path(__file__).resolve().parents[2] / "tests" / "bench" / "results" / "evidence.json"
SHORT_RUNS, SHORT_STEPS = 2, 6
CLEARLY = 0.02
"""Share by which a loss must be higher than the lowest to be clearly worse."""


def parser() -> Arguments:
    """The command's arguments."""
    made = Arguments(
        prog="pigment bench faults",
        description="Teach the embedded base in ways that are made to fail, each for one rule of the "
        "verdict, and count which are found (hits) and which aren't (misses); and count what is found in "
        "ordinary runs that are meant well and went well (false alarms), those of `pigment bench evidence`. "
        "Runs that lie there aren't run again, only judged.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--pool", choices=POOLS, default=PROOF, help="which runs; rules were set on the others")
    made.add_argument("--only", nargs="+", default=[], metavar="RULE", help="only these; all if not given")
    made.add_argument("--short", action="store_true", help=f"{SHORT_RUNS} runs of few steps, to try it out")
    made.add_argument("--runs", type=Path, default=Path("runs/faults"), help="folder of the trainings")
    made.add_argument(
        "--ordinary", type=Path, default=Path("runs/evidence"), help="--runs of pigment bench evidence"
    )
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
            write_atomic(options.table, [as_markdown(report["rules"]).encode()])
        return report

    code = answer("faults", parser(), argv, measure, RECORD, keep=merge)
    for id, why in failed.items():
        print(f"pigment bench faults: {id} failed: {why}", file=sys.stderr)
    return code or int(bool(failed))


def _check(options: argparse.Namespace) -> None:
    if options.jobs < 1:
        raise ConfigError(f"--jobs is {options.jobs}; give at least 1")
    if options.table and options.table.suffix != ".md":
        raise ConfigError(f"--table is {options.table.name!r}; give a name ending in .md")
    pool(options.pool, options.only)
    if options.record:
        if options.only or options.short or options.pool != PROOF:
            raise ConfigError(f"--record keeps the figures of all runs of pool {PROOF}; leave the others out")
        check_place(RECORD)
        if not ordinary(options.ordinary, options.pool):
            raise ConfigError(
                f"--record needs good runs too, and there are none in {str(options.ordinary)!r}; run "
                "`pigment bench evidence` first, or give its --runs as --ordinary"
            )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Run and judge what is asked for: the report, and why what failed did. Raises: ConfigError."""
    runs, folder = pool(options.pool, options.only), options.runs
    if options.short:
        runs, folder = [one.shortened(SHORT_STEPS) for one in runs[:SHORT_RUNS]], folder / "short"
    failed = {}
    for done, (one, why) in enumerate(run_all(runs, folder, options.jobs, options.device), 1):
        if why:
            failed[one.id] = why
        elif not options.json:
            print(f"{done}/{len(runs)} {one.id}", flush=True)
    made = {
        one.id: (one.fault, record)
        for one in runs
        if (record := _record(folder / one.pool / one.id)) is not None
    }
    if not options.short:
        made |= shared(options.ordinary, options.pool, options.only)
    if not made:
        why = next(iter(failed.values()), "")
        raise ConfigError(f"none of {len(runs)} runs has left a record; first: {why}")
    good = ordinary(options.ordinary, options.pool)
    rules, rows = table(made, good), found_in(made, good)
    if not options.json:
        print(as_text(rules))
    report = {"rules": rules, "faults": short(rows), **provenance("faults", parser(), options)}
    return report, failed


# ── Judging


def _record(folder: Path) -> Record | None:
    """A run's record with the choice as it would be made today; None where there is none."""
    record = read_record(folder)
    return None if record is None else record.model_copy(update={"choice": choose(record)})


def ordinary(folder: Path, name: str) -> dict[str, Record]:
    """The records of a pool's ordinary runs that are meant well and went well, by id, where they are there.

    One that got worse on unseen pictures all the same isn't among them: to say so of it is right.
    """
    found = {}
    for one in evidence_runs.pool(name):
        place = evidence_runs.Place(folder).run(one)
        record = _record(place) if one.meant == "well" and not overdone(place) else None
        if record is not None:
            found[one.id] = record
    return found


def shared(folder: Path, name: str, only: Sequence[str] = ()) -> dict[str, tuple[str, Record]]:
    """Fault and record of a pool's ordinary runs that are made to have one, by id, where they are there.

    One that was to get worse again and didn't, as its score on unseen pictures tells, is left out.
    """
    made = {id: fault for fault, ids in SHARED.items() for id in ids}
    found = {}
    for one in evidence_runs.pool(name):
        place = evidence_runs.Place(folder).run(one)
        record = _record(place) if one.id in made or one.meant == "too much" else None
        fault = "" if record is None else made.get(one.id) or _overdone_by(place, record)
        if record is not None and fault and (not only or fault in only or one.id in only):
            found[one.id] = (fault, record)
    return found


def _overdone_by(folder: Path, record: Record) -> str:
    """What a run did too much of: one of WORSE; "" where its score tells that it didn't."""
    truth, own = read_truth(folder), record.losses("teaching")
    if truth is None or not overdone(folder):
        return ""
    best = min(truth, key=lambda step: truth[step])
    return WORSE[0] if own.get(max(truth), 0.0) > own.get(best, 0.0) else WORSE[1]


def overdone(folder: Path) -> bool:
    """Whether a run's score on unseen pictures, which it never knew of, was clearly better before its end."""
    truth = read_truth(folder)
    return truth is not None and truth[max(truth)] > min(truth.values()) * (1 + CLEARLY)


Made = Mapping[str, tuple[str, Record]]
"""By id the rule that a run is made for, and its record."""


def table(made: Made, good: Mapping[str, Record]) -> dict[str, dict[str, int]]:
    """By rule: of the runs made for it how many it finds and misses; in how many good ones it speaks.

    notes: in how many of these it is but a note. good: how many of them it could judge.
    """
    rows = {}
    for name in RULES:
        own = [name in _rules(record) for fault, record in made.values() if fault == name]
        rows[name] = {
            "hits": sum(own),
            "misses": len(own) - sum(own),
            "false_alarms": sum(name in _rules(record) for record in good.values()),
            "notes": sum(name in _rules(record, "note") for record in good.values()),
            "good": sum(name in told(record) for record in good.values()),
        }
    return rows


def found_in(made: Made, good: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
    """By run what it was made for, what was found, and the figure of every rule."""
    runs = {**made, **{f"good {id}": ("", record) for id, record in good.items()}}
    return {
        id: {
            "fault": fault,
            "found": list(_rules(record)),
            "figures": {name: v for name, rule in RULES.items() if (v := rule.test(record)) is not None},
        }
        for id, (fault, record) in runs.items()
    }


def _rules(record: Record, severity: str = "") -> tuple[str, ...]:
    """What is found, or of that what is of a severity."""
    return tuple(one.rule for one in verdict(record) if severity in ("", one.severity))


# ── Showing

_COLUMNS = {"rule": 24, "hits": 6, "misses": 8, "false alarms": 14}


def as_text(rules: Mapping[str, Mapping[str, int]]) -> str:
    """The table for a terminal."""
    lines = ["".join(name.ljust(width) for name, width in _COLUMNS.items()).rstrip()]
    for name, row in rules.items():
        cells = (name, str(row["hits"]), str(row["misses"]), _alarms(row))
        lines.append("".join(c.ljust(w) for c, w in zip(cells, _COLUMNS.values(), strict=True)).rstrip())
    return "\n".join(lines)


def as_markdown(rules: Mapping[str, Mapping[str, int]]) -> str:
    """The table for a README."""
    lines = ["| rule | made to have it | found | false alarms |", "| --- | --- | --- | --- |"]
    for name, row in rules.items():
        made = row["hits"] + row["misses"]
        lines.append(f"| {RULES[name].title} | {made} | {row['hits']} | {_alarms(row)} |")
    return "\n".join(lines) + "\n"


def _alarms(row: Mapping[str, int]) -> str:
    notes = f" ({row['notes']} a note)" if row["notes"] else ""
    return f"{row['false_alarms']} of {row['good']}{notes}"


def merge(report: dict[str, Any], path: Path) -> None:
    """Keep the figures in the checkout, beside what other measurements keep in the same file."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    origin = {name: report[name] for name in ("date", "machine", "versions", "command")}
    own = {"rules": report["rules"], "faults": report["faults"], "faults_of": origin}
    write(path, {**kept, **own})


__all__ = ["RECORD", "main", "parser", "run"]


if __name__ == "__main__":
    sys.exit(main())
