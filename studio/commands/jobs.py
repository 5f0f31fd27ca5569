"""The commands `pigment jobs …`: the queue of a workspace, whether or not a page runs on it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.errors import WorkspaceError, nearest
from studio.commands.arguments import add_json, say, shared_options, workspace_options
from studio.commands.base_options import base_options, chosen_base

if TYPE_CHECKING:
    from studio.jobs import Jobs
    from studio.work.job import Job

SILENT = 30.0  # seconds without a sign of life after which a process is looked for
RECENT = 1000  # jobs that a name or the beginning of an id is looked for in
LOOK = 0.3  # seconds


def _jobs(args: argparse.Namespace) -> Jobs:
    """The queue; what died while no page ran is written down first."""
    from studio.jobs import Jobs
    from studio.workspace import Workspace

    jobs = Jobs(Workspace.open(args.workspace, own=False))
    jobs.recover(silent=SILENT)
    return jobs


def find_job(jobs: Jobs, ref: str) -> Job:
    """The job that `ref` names: an id, the beginning of one, or a title.

    Raises:
        WorkspaceError: none is named so, or several are.
    """
    recent = jobs.find(limit=RECENT)
    for fits in (
        lambda job: job.id == ref,
        lambda job: bool(ref) and job.id.startswith(ref),
        lambda job: job.title.casefold() == ref.casefold(),
    ):
        found = [job for job in recent if fits(job)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(job.id for job in found[:4])
            raise WorkspaceError(f"{len(found)} jobs are named {ref!r}; choose one by its id: {ids}")
    names = {name for job in recent[:200] for name in (job.id, job.title)}
    raise WorkspaceError(f"no job {ref!r} in {jobs.workspace.root}{nearest(ref, names)}")


def _left(jobs: Jobs, job: Job) -> float | None:
    from studio.runlog import RunLog, seconds_left

    if job.state != "running":
        return None
    return seconds_left(job, RunLog(jobs.folder(job) / "events.jsonl").refresh())


def _data(jobs: Jobs, job: Job) -> dict[str, Any]:
    """A job as JSON has it."""
    left = _left(jobs, job)
    return {
        "id": job.id, "kind": job.kind, "title": job.title, "state": job.state, "step": job.step,
        "total": job.total, "seconds_left": None if left is None else round(left, 1), "message": job.message,
        "error": job.error, "created": job.created, "started": job.started, "finished": job.finished,
        "memory_bytes": job.memory, "result": job.result, "acts": list(job.acts),
    }  # fmt: skip


def _line(jobs: Jobs, job: Job) -> str:
    """A job as one line for people."""
    from studio.markup import duration
    from studio.work import KINDS
    from studio.work.job import STATES

    label = KINDS[job.kind].label if job.kind in KINDS else job.kind
    counted = f"{job.step}/{job.total}" if job.total else ""
    left = _left(jobs, job)
    about = [
        job.message if job.state == "running" else job.error,
        f"about {duration(left)} left" if left is not None else "",
        f"{job.memory / 2**30:.1f} GB" if job.memory and job.state == "running" else "",
    ]
    title = " ".join(job.title.split())[:40]
    said = ", ".join(one for one in about if one)
    return f"{job.id}  {STATES[job.state]:<11}  {label:<14}  {counted:>11}  {title:<24}  {said}".rstrip()


def list_all(args: argparse.Namespace) -> int:
    """What runs and waits, in the order of the turns, then what has ended, newest first."""
    from studio.work.job import ACTIVE, STATES

    jobs = _jobs(args)
    states = [args.state] if args.state else list(STATES)
    now = jobs.find(states=("running",)) + jobs.waiting()
    ended = jobs.find(states=[state for state in states if state not in ACTIVE] or ["none"], limit=args.limit)
    shown = [job for job in now if job.state in states] + ended
    counts = jobs.counts()
    more = sum(counts[state] for state in states) - len(shown)
    lines = [_line(jobs, job) for job in shown] or ["no jobs"]
    lines += [f"and {more} more: --limit shows more of them"] if more > 0 else []
    say(args, "\n".join(lines), [_data(jobs, job) for job in shown])
    return 0


def show(args: argparse.Namespace) -> int:
    """Everything about a job."""
    jobs = _jobs(args)
    job = find_job(jobs, args.job)
    data = {**_data(jobs, job), "config": job.config, "details": job.details, "folder": str(jobs.folder(job))}
    lines = [_line(jobs, job)]
    lines += [f"{name}: {_shown(value)}" for name, value in data.items() if value not in ("", None, [], {})]
    say(args, "\n".join(lines), data)
    return 0


def _shown(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _acting(verb: str) -> Callable[[argparse.Namespace], int]:
    def act(args: argparse.Namespace) -> int:
        jobs = _jobs(args)
        found = [find_job(jobs, ref) if verb != "restore" else None for ref in args.job]
        done: list[Job] = []
        for ref, job in zip(args.job, found, strict=True):
            done.append(getattr(jobs, verb)(ref if job is None else job.id))
            if not args.json:
                print(_line(jobs, done[-1]) if verb != "remove" else f"{done[-1].id}  in the trash")
        if args.json:
            say(args, "", [_data(jobs, job) for job in done])
        _hint(jobs, done)
        return 0

    return act


def move(args: argparse.Namespace) -> int:
    """Move a waiting job."""
    jobs = _jobs(args)
    jobs.move(find_job(jobs, args.job).id, args.where)
    waiting = jobs.waiting()
    say(args, "\n".join(_line(jobs, job) for job in waiting), [_data(jobs, job) for job in waiting])
    return 0


def _hint(jobs: Jobs, done: list[Job]) -> None:
    """Say on standard error what makes a queued job begin, where nothing runs the queue."""
    from studio.locks import FileLock

    if not any(job.state == "queued" for job in done):
        return
    with FileLock(jobs.workspace.root / "workspace.lock") as lock:
        if lock.acquire(note="pigment jobs"):
            print("it begins when the studio runs; or: pigment jobs run", file=sys.stderr)


def log(args: argparse.Namespace) -> int:
    """What a job's process has printed."""
    jobs = _jobs(args)
    job = find_job(jobs, args.job)
    text = jobs.log_tail(job, args.lines)
    say(args, text or "nothing was printed", {"id": job.id, "log": text})
    return 0


def run(args: argparse.Namespace) -> int:
    """Do what waits, without a page, until nothing does; Ctrl-C leaves the rest resumable.

    Returns: 0 where everything that was done succeeded, else 2.
    """
    from studio.bases import Bases
    from studio.runner import Runner
    from studio.work.job import RESUMABLE
    from studio.workspace import Workspace

    base, options = chosen_base(args, args.base) if args.base else ("", base_options(args))
    workspace = Workspace.open(args.workspace, note="pigment jobs run")
    runner = Runner(workspace, base=base or Bases(workspace).in_use()[1], options=options, warm=False)
    told: dict[str, str] = {}
    before = time.time()
    try:
        runner.start()
        while True:
            active = runner.jobs.counts()
            for job in reversed(runner.jobs.find(states=("running", "done", *RESUMABLE))):
                if told.get(job.id) != job.state and (job.finished or before) >= before:
                    told[job.id] = job.state
                    print(_line(runner.jobs, job), flush=True)
            if not (active["queued"] or active["running"]):
                break
            time.sleep(LOOK)
    finally:
        runner.close()
        workspace.close()
    return 0 if all(state == "done" for state in told.values()) else 2


def add_commands(commands: Any) -> None:
    """Add `jobs` with its verbs to the parser."""
    from studio.work.job import STATES
    from studio.work.order import PLACES

    parser = commands.add_parser(
        "jobs", help="the queue: list, pause, resume, stop, retry, move, remove, log"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    shared = workspace_options()
    named = "its id, the beginning of it, or its title"

    one = verbs.add_parser("list", parents=[shared], help="what runs, waits and has ended")
    one.add_argument("--state", choices=list(STATES), default=None, help="only those")
    one.add_argument("--limit", type=int, default=20, metavar="N", help="ended jobs to show (default: 20)")
    add_json(one)
    one.set_defaults(run=list_all)

    one = verbs.add_parser("show", parents=[shared], help="everything about one")
    one.add_argument("job", help=named)
    add_json(one)
    one.set_defaults(run=show)

    for verb, text in VERBS.items():
        one = verbs.add_parser(verb, parents=[shared], help=text)
        one.add_argument("job", nargs="+", help=named if verb != "restore" else "its id")
        add_json(one)
        one.set_defaults(run=_acting(verb))

    one = verbs.add_parser("move", parents=[shared], help="let a waiting one come sooner or later")
    one.add_argument("job", help=named)
    one.add_argument("where", choices=PLACES)
    add_json(one)
    one.set_defaults(run=move)

    one = verbs.add_parser("log", parents=[shared], help="the last lines that its process has printed")
    one.add_argument("job", help=named)
    one.add_argument("--lines", type=int, default=40, metavar="N", help="default: 40")
    add_json(one)
    one.set_defaults(run=log)

    one = verbs.add_parser("run", parents=[shared_options()], help="do what waits, without a page")
    one.set_defaults(run=run)


VERBS = {
    "pause": "let one rest until it is resumed; a running one keeps its last step",
    "resume": "let one that ended early go on",
    "stop": "cancel one; a running one keeps its last step",
    "retry": "do an ended one again: it goes on, or becomes a new job",
    "remove": "take an ended one off the list, its files into the trash for 30 days",
    "restore": "bring a removed one back",
}
"""Methods of `Jobs` that take an id, and what they do."""
