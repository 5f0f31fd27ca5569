"""`pigment bench train`: our trainer against other projects' scripts, on the same work, in turns."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from trainers.bench.records import Arguments, answer, check_place, provenance, record, short, write
from trainers.bench.train_cases import (
    asked_for,
    baselines,
    case_of,
    device_of,
    measure,
    model_of,
    model_store,
)
from trainers.bench.train_report import count_lines, kept_in, lines, merged, size_lines
from trainers.bench.train_turns import byte_code

RECORD = Path(__file__).resolve().parents[2] / "tests" / "bench" / "results" / "train.json"
COUNTS = RECORD.with_name("counts.json")
_ALWAYS = ("model", "batch", "out", "record", "json")
_ACT = {
    "counts": _ALWAYS,
    "sizes": (*_ALWAYS, "case", "small", "models", "resolution", "device", "steps", "rounds"),
}
"""What acts on the other measurements."""


def parser() -> Arguments:
    """The command's arguments."""
    made = Arguments(
        prog="pigment bench train",
        description="Measure steps per second, the time to the first step and the peak of memory of a LoRA "
        "training, against other projects' scripts on the same model, pictures and settings. Each training "
        "runs in a process of its own, all in turns.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    what = made.add_argument_group("what is trained")
    what.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="pocket (if none is given), sd15 or sdxl (random weights), a diffusers folder; may be repeated",
    )
    what.add_argument(
        "--batch", action="append", type=int, metavar="N", help="1 if not given; may be repeated"
    )
    what.add_argument(
        "--case",
        action="append",
        metavar="MODEL:N",
        help="one model at one batch size, such as sdxl:4, instead of every --model at every --batch; may be "
        "repeated",
    )
    what.add_argument("--small", action="store_true", help="sd15 and sdxl at an eighth of their width")
    what.add_argument("--models", type=Path, help="keep sd15 and sdxl in this folder; else they are removed")
    what.add_argument("--resolution", type=int, help="pixels a side; the model's own if not given")
    what.add_argument("--rank", type=int, default=16, help="of the adapter, on the UNet's attention")
    what.add_argument("--pictures", type=int, default=8, help="to learn from; a multiple of the batch")
    what.add_argument("--dtype", help="fp32, bf16 or fp16; bf16 on a card if not given")
    what.add_argument("--checkpointing", action="store_true", help="recompute every block, in all ways")
    against = made.add_argument_group("against what")
    against.add_argument(
        "--diffusers", type=Path, metavar="PATH", help="a checkout of diffusers, or the folder of its script"
    )
    against.add_argument("--kohya", type=Path, metavar="PATH", help="a checkout of kohya's sd-scripts")
    against.add_argument(
        "--kohya-python", metavar="FILE", help="a Python with kohya's own packages; this one if not given"
    )
    against.add_argument(
        "--mechanisms", action="store_true", help="ours with each mechanism left out in turn, too"
    )
    how = made.add_argument_group("how")
    how.add_argument("--device", help="cpu or cuda; cuda where there is one if not given")
    how.add_argument("--cap-gib", type=float, help="use no more of a CUDA card's memory, in GiB")
    how.add_argument("--threads", type=int, help="of a CPU; all cores if not given")
    how.add_argument("--warm-up", type=int, default=20, help="steps that aren't counted")
    how.add_argument("--steps", type=int, default=100, help="steps that are, after them")
    how.add_argument("--rounds", type=int, default=5, help="turns of all ways")
    how.add_argument(
        "--minutes", type=float, help="begin no round that would last beyond this; one per case is made"
    )
    how.add_argument(
        "--again", action="store_true", help="the first step of a second run, too, whose caches are filled"
    )
    made.add_argument(
        "--counts",
        action="store_true",
        help="count operators, FLOPs and bytes of a step of sd15 and sdxl instead; needs no device",
    )
    made.add_argument(
        "--sizes",
        nargs="?",
        const="10,10000",
        metavar="N,N",
        help="measure what many pictures cost instead: so many, 10,10000 if only --sizes is given",
    )
    made.add_argument("--out", type=Path, help="write the figures to this JSON file")
    made.add_argument("--record", action="store_true", help="keep them in tests/bench/results too")
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure for a command line; 0, or 2 after one line that says what to do."""

    def measured(options: argparse.Namespace) -> dict[str, Any]:
        _check(options)
        if options.counts:
            return count(options)
        return sizes(options) if options.sizes else run(options)

    def place(options: argparse.Namespace) -> Path:
        return COUNTS if options.counts else RECORD

    return answer("train", parser(), argv, measured, place)


def _check(options: argparse.Namespace) -> None:
    names = ("resolution", "rank", "pictures", "cap_gib", "threads", "warm_up", "steps", "rounds", "minutes")
    for name in names:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; give at least 1")
    if options.kohya_python and not options.kohya:
        raise ConfigError("--kohya-python runs kohya's script; give its checkout with --kohya too")
    if options.counts and options.sizes:
        raise ConfigError("--counts and --sizes are two measurements; give one of them")
    for mode, acting in _ACT.items():
        for name, default in vars(parser().parse_args([])).items() if getattr(options, mode) else ():
            if getattr(options, name) != default and name not in (mode, *acting):
                raise ConfigError(f"--{name.replace('_', '-')} changes nothing with --{mode}; leave it out")
    if options.case and (options.model or options.batch):
        raise ConfigError("--case says model and batch; leave --model and --batch out")
    if options.steps < 2:
        raise ConfigError(f"--steps is {options.steps}; give at least 2")
    if options.record:
        check_place(RECORD)
    if options.device not in (None, "cpu", "cuda"):
        raise ConfigError(f"--device is {options.device!r}; give cpu or cuda")
    if options.dtype not in (None, "fp32", "bf16", "fp16"):
        raise ConfigError(f"--dtype is {options.dtype!r}; give fp32, bf16 or fp16")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every case asked for; what was kept of these models' others stays.

    Raises: ConfigError, BaseError.
    """
    device, origin = device_of(options), provenance("train", parser(), options)
    cases = asked_for(options)
    kept, report = kept_models(options), {"models": dict[str, Any](), **origin}
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    with (
        model_store(options.models) as models,
        tempfile.TemporaryDirectory(prefix="pigment-bench-") as made,
        byte_code(Path(made) / "byte-code"),
    ):
        for index, one in enumerate(cases):
            case = case_of(one, options, device, models, Path(made) / str(index))
            now = time.monotonic()
            share = None if end is None else now + (end - now) / (len(cases) - index)
            figures = short(measure(case, baselines(options, case.family), options, share))
            row = {"batches": {str(one.batch): {**figures, **origin}}}
            report["models"][one.name] = merged(report["models"].get(one.name) or kept.get(one.name, {}), row)
            if options.record:
                record(report, RECORD)
            if options.out:  # after every case: a later one may be cut short
                write(options.out, report)
            if not options.json:
                print("\n".join(lines(one.name, one.batch, figures)), flush=True)
    return report


def count(options: argparse.Namespace) -> dict[str, Any]:
    """Count a step of the models at the batch sizes that are asked for. Raises: ConfigError."""
    from trainers.counting.steps import MODELS, count_steps

    for model in options.model or ():
        if model not in MODELS:
            raise ConfigError(f"--counts has no model {model!r}; give one of {', '.join(MODELS)}")
    found = count_steps(tuple(options.model or MODELS), tuple(options.batch or (1, 4)))
    if not options.json:
        print("\n".join(count_lines(found)))
    return {"models": short(found), **provenance("train", parser(), options)}


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each model's trainings on few and on many pictures. Raises: ConfigError, StudioError."""
    from trainers.bench.sizes import Plan, measure_sizes

    device, origin = device_of(options), provenance("train", parser(), options)
    counts = _counts(options.sizes)
    kept, report = kept_models(options), {"models": dict[str, Any](), **origin}
    with model_store(options.models) as models:
        for asked in asked_for(options):
            model, _, resolution = model_of(asked, options, device, models)
            plan = Plan(
                base=str(model),
                device=device,
                resolution=options.resolution or resolution,
                batch=asked.batch,
                steps=options.steps,
                rounds=options.rounds,
            )
            found = short(measure_sizes(counts, plan))
            row = {"sizes": {**found, **origin}}
            report["models"][asked.name] = merged(kept.get(asked.name, {}), row)
            if not options.json:
                print("\n".join([f"{asked.name}, by number of pictures", *size_lines(found)]), flush=True)
    return report


def _counts(said: str) -> list[int]:
    numbers = [int(part) if part.isdigit() else 0 for part in said.split(",")]
    if min(numbers) < 1 or len(set(numbers)) < 2:
        raise ConfigError(f"--sizes is {said!r}; give two numbers of pictures or more, such as 10,10000")
    return numbers


def kept_models(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of models that were recorded before, where these are to be recorded too."""
    kept = kept_in(RECORD) if options.record else {}
    models: dict[str, Any] = kept.get("models", {})
    return models


if __name__ == "__main__":
    sys.exit(main())
