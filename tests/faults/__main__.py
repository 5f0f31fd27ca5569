"""`python -m tests.faults [SUITE…]`: do every kind of harm, count what is survived, and do it again with
each safeguard taken away, which must be noticed. Writes tests/bench/results/faults.json when done whole.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from pipelines.files import write_atomic
from tests.faults.performing import Done, perform_apart
from tests.faults.suites import ROOT, SUITES, Suite, suite
from tests.faults.table import as_markdown
from trainers.evidence.provenance import machine, versions

RESULTS = ROOT / "tests" / "bench" / "results" / "faults.json"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's wishes."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; none: all")
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of faults (0 to 1)")
    parser.add_argument("--only", action="append", metavar="CHECK", help="these checks of the suites alone")
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance")
    parser.add_argument("--no-planted", action="store_true", help="don't repeat with safeguards taken away")
    parser.add_argument("--only-planted", action="store_true", help="only with safeguards taken away")
    parser.add_argument("--table", action="store_true", help="print the README's table of what is recorded")
    options = parser.parse_args(argv)
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"unknown suite {unknown.pop()!r}; choose from {', '.join(SUITES)}")
    return options


def line(title: str, done: Done) -> str:
    """What is said of one check."""
    if done.skipped:
        return f"  skip  {title}: {done.skipped}"
    said = f"  {'ok' if done.passed else 'FAIL':4}  {title}: survived {done.survived:,} of {done.tried:,}"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in done.figures.items())
    return f"{said}{f'; {figures}' if figures else ''} ({done.seconds:.0f} s)"


def run_suite(name: str, found: Suite, options: argparse.Namespace) -> dict[str, Any]:
    """Do one suite, and say so; returns its row of the figures file."""
    print(f"{name}: {found.title}", flush=True)
    checks = {one: check for one, check in found.checks.items() if not options.only or one in options.only}
    rows: dict[str, Any] = {}
    for one, check in checks.items() if not options.only_planted else ():
        done = perform_apart(f"{name}/{one}", share=options.share, seed=options.seed)
        print(line(check.title, done), flush=True)
        for words in (*done.failures[:5], *([done.broke] if done.broke else ())):
            print(f"        {words}", flush=True)
        told = {key: value for key, value in vars(done).items() if value not in ("", [], {})}
        rows[one] = {**told, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    caught: dict[str, bool] = {}
    for one, check in checks.items() if not options.no_planted else ():
        for plant in check.plants:
            done = perform_apart(f"{name}/{one}", share=None, seed=options.seed, plant=plant)
            if done.skipped:
                continue
            # A check that breaks has shown nothing: only what it looked for and missed counts.
            caught[f"{one}/{plant}"] = bool(done.failures) and not done.broke
            words = "fails as it should" if caught[f"{one}/{plant}"] else "NOT NOTICED"
            why = (done.failures or [done.broke or "nothing was found amiss"])[0]
            print(f"  planted {one}/{plant}: {words}: {why[:160]}", flush=True)
    return row_of(found, rows, caught)


def row_of(found: Suite, rows: Mapping[str, Mapping[str, Any]], caught: Mapping[str, bool]) -> dict[str, Any]:
    """A suite's row of the figures file.

    rows: what came of its checks, by name. caught: whether a missing safeguard was noticed, by "check/plant".
    """
    ran = [row for row in rows.values() if "skipped" not in row]
    return {
        "title": found.title,
        "tried": sum(row.get("tried", 0) for row in ran),
        "survived": sum(row.get("survived", 0) for row in ran),
        "passed": all(row.get("passed", False) for row in ran),
        "figure": found.figure({one: row.get("figures", {}) for one, row in rows.items()}),
        "planted_bug_caught": bool(caught) and all(caught.values()),
        "planted": dict(caught),
        "seconds": round(sum(row.get("seconds", 0.0) for row in ran)),
        "checks": dict(rows),
        "date": min((row["date"] for row in rows.values()), default=""),
        "machine": machine(),
        "versions": versions(),
    }


def with_others(found: Suite, row: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """A suite's row with those checks of an earlier one that it hasn't itself.

    A suite takes hours; its checks may be run one at a time. Until all have, it hasn't passed.
    """
    before = {one: {"date": kept["date"], **check} for one, check in kept["checks"].items()} if kept else {}
    rows = before | row["checks"]
    plants = {
        one: done for one, done in (kept["planted"] if kept else {}).items()
        if one.partition("/")[0] not in row["checks"]
    } | row["planted"]  # fmt: skip
    order = [f"{one}/{plant}" for one, check in found.checks.items() for plant in check.plants]
    whole = row_of(
        found, {one: rows[one] for one in found.checks if one in rows},
        {one: plants[one] for one in order if one in plants},
    )  # fmt: skip
    return {**whole, "passed": whole["passed"] and set(found.checks) <= set(rows)}


def summary(name: str, row: dict[str, Any], options: argparse.Namespace) -> str:
    """One line for a suite."""
    parts = []
    if not options.only_planted:
        parts.append(f"survived {row['survived']:,} of {row['tried']:,}")
        parts += [row["figure"]] if row["figure"] else []
        parts.append(f"{row['seconds']} s")
    if not options.no_planted:
        noticed = sum(row["planted"].values())
        parts.append(f"{noticed} of {len(row['planted'])} missing safeguards noticed")
    return f"{name:12} {'; '.join(parts)}"


def green(row: dict[str, Any], options: argparse.Namespace) -> bool:
    """Whether a suite has gone as it should."""
    return (options.only_planted or row["passed"]) and (options.no_planted or row["planted_bug_caught"])


def main(argv: list[str] | None = None) -> int:
    """Run the suites; 0 where all is as it should be."""
    options = parse(argv)
    if options.table:
        print(as_markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return 0
    rows = {}
    for name in options.suites or SUITES:
        rows[name] = run_suite(name, suite(name), options)
        if options.share == 1 and not (options.no_planted or options.only_planted):
            keep(name, rows[name])
    print()
    for name, row in rows.items():
        print(f"{'ok  ' if green(row, options) else 'FAIL'} {summary(name, row, options)}")
    return 0 if all(green(row, options) for row in rows.values()) else 1


def keep(name: str, row: dict[str, Any]) -> None:
    """Write a suite's row into the figures file, beside the others' and those of its checks not run now."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"suites": {}}
    kept["command"] = "make test-faults"
    row = with_others(suite(name), row, kept["suites"].get(name, {}))
    kept["suites"] = {one: {**kept["suites"], name: row}.get(one) for one in SUITES}
    kept["suites"] = {one: found for one, found in kept["suites"].items() if found is not None}
    write_atomic(RESULTS, [json.dumps(kept, indent=1, ensure_ascii=False).encode() + b"\n"])


if __name__ == "__main__":
    sys.exit(main())
