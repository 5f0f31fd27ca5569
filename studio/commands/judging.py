"""`pigment judge`: what an adapter has learned, measured afterwards."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError, ConfigError
from studio.commands.arguments import Parser, adapter_file, add_json, place, say
from studio.commands.base_options import given_options, refuse_idle_placing, the_base

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.base import Base
    from trainers.evidence.case import Asked, Case
    from trainers.evidence.record import Record

_NEED_BASE = ("pictures", "prompt", "class_prompt", "trigger")
_WORDS = ("trigger", "prompt", "class_prompt", "kind", "held_out")
_DRAWN = ("samples", "judge", "structure_judge")
_MEASURES = {
    "image_similarity": "like the pictures",
    "structure_similarity": "like them in structure",
    "prompt_similarity": "fits the prompt",
    "diversity": "variety over seeds",
    "drift": "other prompts moved",
}


def judge(args: argparse.Namespace) -> int:
    """Measure all that can be measured of an adapter; write the record, a picture of it, and a report."""
    run = _run_folder(args)
    path = _adapter(args, run)
    out = _out(args, path, run)
    from pipelines.formats import read_adapter
    from trainers.evidence.case import case_of, case_of_run

    asked = _asked(args)
    adapter = read_adapter(path)
    if run is not None:
        case = case_of_run(adapter, run, asked, out)
        _as_the_run_did(args, case)
    else:
        case = case_of(adapter, asked, out, args.base or "pocket")
    if case.config is None:
        _refuse_idle(args, (*_WORDS, *_DRAWN), "on an adapter that says no word; give --trigger")
        refuse_idle_placing(args, "judge of an adapter that says no word")
    base: Base | None = None
    if run is not None or any(getattr(args, name) is not None for name in _NEED_BASE) or given_options(args):
        base = the_base(args)
    elif (base := _pocket(args, adapter)) is None:
        _refuse_idle(args, (*_WORDS, *_DRAWN), "without a base; give --base")
        case = replace(case, config=None)
    if case.config is None:
        print("only the adapter itself is looked at, nothing is drawn with it", file=sys.stderr)
    record = _measured(case, base)
    files = _written(case)
    say(args, _said(record, files), {"record": record.model_dump(mode="json"), "written": files})
    return 0


def _run_folder(args: argparse.Namespace) -> Path | None:
    """The run's folder. Raises: ConfigError where it is none, or for words that the run says itself."""
    if args.of_run is None:
        if args.adapter is None:
            raise ConfigError("nothing to judge; give an adapter, or --run FOLDER; see pigment judge --help")
        return None
    _refuse_idle(args, _WORDS, "with --run, whose settings hold; judge the file alone")
    from trainers.run_folder import CONFIG_NAME

    folder = place(args.of_run)
    if not (folder / CONFIG_NAME).is_file():
        raise ConfigError(
            f"--run {args.of_run!r} is no folder of a run: it has no {CONFIG_NAME}; choose another"
        )
    return folder


def _refuse_idle(args: argparse.Namespace, names: tuple[str, ...], when: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect {when}, or leave it out")


def _adapter(args: argparse.Namespace, run: Path | None) -> Path:
    """The file to judge: what is named, else the run's own."""
    if args.adapter is not None:
        return adapter_file(args.adapter, args)
    from trainers.run_folder import ADAPTER_NAME

    assert run is not None
    if not (run / ADAPTER_NAME).is_file():
        raise AdapterError(f"run {args.of_run!r} has left no {ADAPTER_NAME}; name one of its candidates")
    return run / ADAPTER_NAME


def _out(args: argparse.Namespace, path: Path, run: Path | None) -> Path:
    """The folder to write to: what is said, the run's own for its own adapter, else one beside."""
    if args.out is None and args.adapter is None and run is not None:
        return run
    out = place(args.out) if args.out else Path(f"{path.stem}-evidence")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a file, expected a folder; choose another")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: folder {str(out.absolute().parent)!r} isn't there; make it first")
    return out.absolute()


def _asked(args: argparse.Namespace) -> Asked:
    """What the command line says of the adapter. Raises: ConfigError for pictures that aren't there."""
    from trainers.evidence.case import Asked

    pictures = None if args.pictures is None else place(args.pictures)
    if pictures is not None and not pictures.is_dir():
        raise ConfigError(f"--pictures {args.pictures!r}: no such folder")
    if args.held_out is not None and pictures is None:
        raise ConfigError("--held-out counts pictures; give --pictures DIR, or leave it out")
    return Asked(
        pictures=None if pictures is None else pictures.absolute(), trigger=args.trigger or "",
        prompt=args.prompt or "", class_prompt=args.class_prompt or "", kind=args.kind or "",
        held_out=args.held_out, samples=args.samples, judge=args.judge or "",
        structure_judge=args.structure_judge or "",
    )  # fmt: skip


def _as_the_run_did(args: argparse.Namespace, case: Case) -> None:
    """Fill in the run's base, and how it opened it, where the command line says nothing."""
    assert case.config is not None
    run = case.config.run
    if args.base is None:
        args.base = run.base
        for name in ("vae", "configs", "prediction_type"):
            if getattr(args, name) is None:
                setattr(args, name, getattr(run, name) or None)


def _pocket(args: argparse.Namespace, adapter: Adapter) -> Base | None:
    """The embedded base where the adapter is for it; None where it isn't, and does without one."""
    from pipelines.methods import METHODS

    base = the_base(args)
    try:
        adapter.check(base)
    except AdapterError:
        if any(METHODS[method].needs_weight for method in adapter.methods):
            raise
        return None
    return base


def _measured(case: Case, base: Base | None) -> Record:
    """Judge, and say on standard error what goes on."""
    from trainers.evidence.judging import judging

    steps = judging(case, base)
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            record: Record = end.value
            return record
        print(event.message, file=sys.stderr, flush=True)


def _written(case: Case) -> dict[str, str]:
    from trainers.evidence.record import PICTURE_NAME, RECORD_NAME, REPORT_NAME

    names = {"record": RECORD_NAME, "picture": PICTURE_NAME, "report": REPORT_NAME}
    return {kind: str(case.out / name) for kind, name in names.items()}


def _said(record: Record, files: dict[str, str]) -> str:
    """What was found, for people: the verdict, what it draws, losses, what it is made of, and where it is."""
    from trainers.evidence.ranks import rank_advice
    from trainers.evidence.rules import WELL

    judged = bool(record.measured or record.drawn)
    lines = [f"{one.title}: {one.words} {one.advice}" for one in record.verdict]
    lines += [WELL] if judged and not record.verdict else []
    lines += _of_losses(record)
    if record.drawn is not None:
        for name, label in _MEASURES.items():
            value, before = getattr(record.drawn, name), getattr(record.base, name, None)
            if value is not None:
                lines.append(
                    f"{label}: {value:.3f}" + (f" (base {before:.3f})" if before is not None else "")
                )
    if (copies := record.memorisation) is not None:
        lines.append(f"copies of pictures: {copies.flagged} of {len(copies.pairs)} drawn")
    if (found := record.anatomy) is not None:
        strongest = max(found.blocks, key=lambda block: block.share, default=None)
        where = f", most in {strongest.name} ({strongest.share:.0%})" if strongest and found.norm else ""
        lines.append(f"change {found.norm:.4g}{where}; text encoder {found.text_share:.0%}")
        lines += [f"{len(found.dead)} modules learned nothing"] if found.dead else []
        lines += [found.note] if found.note else []
        advice = rank_advice(found)
        lines += [advice.words] if advice else []
    return "\n".join([*lines, f"written: {files['report']}"])


def _of_losses(record: Record) -> list[str]:
    """How far each loss is from the base's."""
    from trainers.evidence.record import SETS

    found = []
    for name, about in SETS.items():
        losses = record.losses(name)
        if len(losses) > 1 and losses[min(losses)] > 0:
            change = losses[max(losses)] / losses[min(losses)] - 1
            found.append(f"loss on {about}: {losses[max(losses)]:.4f} ({change:+.1%} against the base)")
    return found


def add_commands(commands: Any, shared: Parser) -> None:
    """Add this module's command to the parser."""
    parser = commands.add_parser(
        "judge", parents=[shared], help="measure what an adapter has learned, and write a report of it"
    )
    parser.add_argument(
        "adapter", nargs="?", default=None, help="file, or name in the library; with --run: the run's own"
    )
    parser.add_argument(
        "--run",
        dest="of_run",
        default=None,
        metavar="FOLDER",
        help="the run's folder: its settings, pictures and figures",
    )
    parser.add_argument("--pictures", default=None, metavar="DIR", help="what it was taught with")
    parser.add_argument("--trigger", default=None, metavar="WORD", help="default: as the adapter says")
    parser.add_argument(
        "--prompt", default=None, metavar="TEXT", help="of the pictures, with the trigger; default: likewise"
    )
    parser.add_argument(
        "--class-prompt", default=None, metavar="TEXT", help="the same without the trigger; default: likewise"
    )
    parser.add_argument("--kind", choices=("subject", "style"), default=None, help="default: likewise")
    parser.add_argument(
        "--held-out", type=int, default=None, metavar="N",
        help="so many of the pictures, the last by name, weren't learned from; default: likewise",
    )  # fmt: skip
    parser.add_argument(
        "--samples",
        type=int,
        default=None,
        metavar="N",
        help="pictures drawn per prompt (default 2); 0: none",
    )
    parser.add_argument(
        "--judge", default=None, metavar="MODEL",
        help="a CLIP model (folder or hub id) that says how alike pictures are (default: the base's own)",
    )  # fmt: skip
    parser.add_argument(
        "--structure-judge", default=None, metavar="MODEL", help="a DINO-style model (folder or hub id)"
    )
    parser.add_argument(
        "--out", default=None, metavar="DIR",
        help="for the report (default: NAME-evidence; with --run alone: the run's folder)",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(run=judge)
