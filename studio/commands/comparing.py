"""The command `pigment compare RUN RUN…`: runs beside each other, as a table and as a page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, StudioError, WorkspaceError
from studio.commands.arguments import add_json, place, say, workspace_options

if TYPE_CHECKING:
    from studio.jobs import Jobs
    from trainers.evidence.comparing import Compared, Comparison

PAGE = "compare.html"


def _compare(args: argparse.Namespace) -> int:
    from trainers.evidence.comparing import as_text, compare
    from trainers.evidence.report_comparison import comparison_page

    out = place(args.out)
    if out.is_dir():
        out /= PAGE
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {args.out!r} is no page; give a file that ends in .html")
    found = compare([_run(ref, args) for ref in args.run_refs])
    _write(out, comparison_page(found))
    say(args, as_text(found), _data(found, out))
    if not args.json:
        print(f"\nwith pictures and curves: {out}", file=sys.stderr)
    return 0


def _write(path: Path, page: str) -> None:
    from pipelines.files import write_atomic

    try:
        write_atomic(path, [page.encode()])
    except OSError as error:
        raise ConfigError(f"--out {str(path)!r} can't be written ({error.strerror}); give another") from None


def _run(ref: str, args: argparse.Namespace) -> Compared | Path:
    """A run's folder, or what is known of a job or of an adapter in the library."""
    path = place(ref)
    if path.is_dir():
        return path
    from studio.jobs import Jobs
    from studio.workspace import Workspace

    jobs = Jobs(Workspace.open(args.workspace, own=False))
    found = _of_job(ref, jobs) or _of_adapter(ref, jobs)
    if found is None:
        raise StudioError(
            f"no run {ref!r}: no such folder, and no job or adapter of that name in {jobs.workspace.root}; "
            "pigment jobs list tells them"
        )
    return found


def _of_job(ref: str, jobs: Jobs) -> Compared | Path | None:
    from studio.commands.jobs import find_job
    from trainers.evidence.comparing import Compared
    from trainers.evidence.record import read_record

    try:
        job = find_job(jobs, ref)
    except WorkspaceError as error:
        if "choose one by its id" in str(error):
            raise
        return None
    folder = jobs.folder(job)
    record = read_record(folder)
    return folder if record is None else Compared(job.title, record, folder)


def _of_adapter(ref: str, jobs: Jobs) -> Compared | None:
    from studio import attached
    from studio.library import Library
    from trainers.evidence.comparing import Compared

    entry = Library(jobs.workspace).find(ref)
    if entry is None:
        return None
    record = attached.kept_record(jobs.workspace, entry.id)
    if record is None:
        raise StudioError(f"nothing is known of how {entry.name!r} was taught; pigment judge measures it")
    folder = jobs.workspace.folder("runs", entry.job) if entry.job else None
    return Compared(entry.name, record, folder if folder is not None and folder.is_dir() else None)


def _data(found: Comparison, out: Path) -> dict[str, Any]:
    rows = [
        {"title": row.measure.title, "better": row.measure.better, "values": row.values, "best": row.best}
        for row in found.rows
    ]
    differing = {".".join(name): list(said) for name, said in found.differing.items()}
    return {
        "runs": [run.name for run in found.runs], "rows": rows, "differing": differing, "note": found.note,
        "page": str(out),
    }  # fmt: skip


def add_commands(commands: Any) -> None:
    """Add `compare` to the parser."""
    command = commands.add_parser(
        "compare", parents=[workspace_options()], help="put runs beside each other: figures, settings, curves"
    )
    command.add_argument(
        "run_refs", nargs="+", metavar="RUN",
        help="a run's folder, a job's id or title, or an adapter of the library; 2 to 6 of them",
    )  # fmt: skip
    command.add_argument(
        "--out", default=PAGE, metavar="FILE", help=f"the page that is written (default: {PAGE})"
    )
    add_json(command)
    command.set_defaults(run=_compare)
