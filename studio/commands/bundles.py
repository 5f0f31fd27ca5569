"""The command `pigment bundle RUN`: all that an adapter was made of, and the adapter, in one zip."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, StudioError, WorkspaceError
from studio.commands.arguments import add_json, place, say, target, workspace_options

if TYPE_CHECKING:
    from studio.jobs import Jobs
    from trainers.config import TrainConfig


def _bundle(args: argparse.Namespace) -> int:
    from pipelines.files import write_atomic
    from studio.markup import size
    from trainers.bundle_format import read_bundle
    from trainers.bundle_zip import members_of, pictures_of, zipped

    folder, config = _run(args.run_ref, args)
    bundle = read_bundle(folder)
    members = members_of(folder, bundle)
    if args.with_pictures:
        members += pictures_of(bundle, config if config is not None else _config(folder))
    stem = "".join(letter if letter.isalnum() or letter in "-_ " else "-" for letter in bundle.name)
    path = target(args.out, f"{stem.strip() or 'run'} bundle.zip", None, ending=".zip")
    try:
        sha256 = write_atomic(path, zipped(members))
    except OSError as error:
        raise ConfigError(f"--out {str(path)!r} can't be written ({error.strerror}); give another") from None
    learned = bundle.data
    counted = f"{len(learned.pictures)} picture{'s' if len(learned.pictures) != 1 else ''}"
    within = f"with its {counted}" if args.with_pictures else f"without its {counted}"
    text = f"{path}: {size(path.stat().st_size)}, {within}; pigment train makes the adapter again from it"
    data = {"path": str(path), "sha256": sha256, "adapter_sha256": bundle.made.sha256,
            "files": [name for name, _ in members]}  # fmt: skip
    say(args, text, data)
    return 0


def _run(ref: str, args: argparse.Namespace) -> tuple[Path, TrainConfig | None]:
    """A run's folder, and its config where the workspace knows it better than the folder does."""
    path = place(ref)
    if path.is_dir():
        return path, None
    from studio.jobs import Jobs
    from studio.work.training import config_of
    from studio.workspace import Workspace

    jobs = Jobs(Workspace.open(args.workspace, own=False))
    job_id = _of_job(ref, jobs) or _of_adapter(ref, jobs)
    if not job_id:
        raise StudioError(
            f"no run {ref!r}: no such folder, and no job or adapter of that name in {jobs.workspace.root}; "
            "pigment jobs list tells them"
        )
    job = jobs.get(job_id)
    return jobs.folder(job), config_of(jobs.workspace, job) if job.kind == "train" else None


def _of_job(ref: str, jobs: Jobs) -> str:
    from studio.commands.jobs import find_job

    try:
        return find_job(jobs, ref).id
    except WorkspaceError as error:
        if "choose one by its id" in str(error):
            raise
        return ""


def _of_adapter(ref: str, jobs: Jobs) -> str:
    """The id of the job that taught an adapter of the library."""
    from studio.library import Library

    entry = Library(jobs.workspace).find(ref)
    if entry is not None and not entry.job:
        raise StudioError(
            f"{entry.name!r} wasn't taught here, so there is no bundle of it; ask who taught it"
        )
    return "" if entry is None else entry.job or ""


def _config(folder: Path) -> TrainConfig:
    """What a run says of itself: where its pictures are."""
    from trainers.config import load_config
    from trainers.run_folder import CONFIG_NAME

    return load_config(folder / CONFIG_NAME)


def add_commands(commands: Any) -> None:
    """Add `bundle` to the parser."""
    command = commands.add_parser(
        "bundle", parents=[workspace_options()],
        help="all that an adapter was made of, in a zip that `pigment train` makes it again from",
    )  # fmt: skip
    command.add_argument(
        "run_ref", metavar="RUN", help="a run's folder, a job's id or title, or an adapter of the library"
    )
    command.add_argument(
        "--with-pictures", action="store_true",
        help="put in the pictures, captions, masks and class pictures too; else they go by their hashes",
    )  # fmt: skip
    command.add_argument("--out", default=None, metavar="FILE", help="default: “NAME bundle.zip” here")
    add_json(command)
    command.set_defaults(run=_bundle)
