"""`pigment bench train`: our trainer against other projects' scripts, on the same work, in turns."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError
from trainers.bench.records import Arguments, answer, check_place, provenance, record, short
from trainers.bench.train_report import kept_in, lines, merged

if TYPE_CHECKING:
    from trainers.bench.train_ways import Case, Way

RECORD = Path(__file__).resolve().parents[2] / "tests" / "bench" / "results" / "train.json"
_GIB = 2**30
_HOUR = 3600.0


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
    made.add_argument("--out", type=Path, help="write the figures to this JSON file")
    made.add_argument("--record", action="store_true", help="keep them in tests/bench/results/train.json too")
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure for a command line; 0, or 2 after one line that says what to do."""

    def measure(options: argparse.Namespace) -> dict[str, Any]:
        _check(options)
        return run(options)

    return answer("train", parser(), argv, measure, RECORD)


def _check(options: argparse.Namespace) -> None:
    names = ("resolution", "rank", "pictures", "cap_gib", "threads", "warm_up", "steps", "rounds", "minutes")
    for name in names:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; give at least 1")
    if options.kohya_python and not options.kohya:
        raise ConfigError("--kohya-python runs kohya's script; give its checkout with --kohya too")
    if options.case and (options.model or options.batch):
        raise ConfigError("--case says model and batch; leave --model and --batch out")
    if options.steps < 2:
        raise ConfigError(f"--steps is {options.steps}; give at least 2")
    if options.record:
        check_place(RECORD)
    if options.device not in (None, "cpu", "cuda"):
        raise ConfigError(f"--device is {options.device!r}; give cpu or cuda")


@dataclass(frozen=True)
class Asked:
    """One model at one batch size. source: as `--model` has it. name: its key among the figures."""

    source: str
    name: str
    batch: int


def asked_for(options: argparse.Namespace) -> list[Asked]:
    """Return the cases of a command line. Raises: ConfigError."""
    pairs = [(model, batch) for model in options.model or ["pocket"] for batch in options.batch or [1]]
    pairs = [_case(said) for said in options.case or ()] or pairs
    for _, batch in pairs:
        if batch < 1 or options.pictures % batch:
            raise ConfigError(
                f"batch {batch} doesn't divide the {options.pictures} pictures, so that some steps would be "
                "smaller; set --pictures to a multiple of it"
            )
    return [Asked(model, _name(model, options), batch) for model, batch in pairs]


def _case(said: str) -> tuple[str, int]:
    model, colon, batch = said.rpartition(":")
    if not colon or not batch.isdigit():
        raise ConfigError(f"--case is {said!r}; give a model and a batch size, such as sdxl:4")
    return model, int(batch)


def _name(source: str, options: argparse.Namespace) -> str:
    """A model's key among the figures: what makes them another's is in it."""
    from trainers.bench.models import RANDOM

    name = source if source in (*RANDOM, "pocket") else Path(source).name
    name += "-small" if source in RANDOM and options.small else ""
    name += f"-{options.resolution}px" if options.resolution else ""
    name += f"-{options.dtype}" if options.dtype else ""
    name += "-checkpointed" if options.checkpointing else ""
    name += f"-{options.cap_gib:g}gib" if options.cap_gib else ""
    return name + (f"-{options.threads}threads" if options.threads else "")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every case asked for; what was kept of others stays. Raises: ConfigError, BaseError."""
    device, origin = _device(options), provenance("train", parser(), options)
    cases = asked_for(options)
    kept = kept_in(RECORD) if options.record else {}
    report: dict[str, Any] = {"models": kept.get("models", {}), **origin}
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    with _folder(options.models) as models, tempfile.TemporaryDirectory(prefix="pigment-bench-") as made:
        for index, one in enumerate(cases):
            case = _case_of(one, options, device, models, Path(made) / str(index))
            now = time.monotonic()
            share = None if end is None else now + (end - now) / (len(cases) - index)
            figures = short(measure(case, baselines(options, case.family), options, share))
            row = {"batches": {str(one.batch): {**figures, **origin}}}
            report = merged(report, {"models": {one.name: row}})
            if options.record:
                record(report, RECORD)
            if not options.json:
                print("\n".join(lines(one.name, one.batch, figures)), flush=True)
    return report


def _device(options: argparse.Namespace) -> str:
    """The device that is measured on. Raises: ConfigError for what it can't do."""
    import torch

    there = torch.cuda.is_available()
    device = options.device or ("cuda" if there else "cpu")
    if device == "cuda" and not there:
        raise ConfigError("--device is 'cuda', but PyTorch finds no CUDA card; give cpu")
    if device == "cpu" and options.cap_gib is not None:
        raise ConfigError("--cap-gib limits a CUDA card, and none is used here; leave it out")
    if device == "cpu" and options.dtype not in (None, "fp32"):
        raise ConfigError(f"--dtype is {options.dtype!r}, but a CPU trains in fp32; leave it out")
    return device


def baselines(options: argparse.Namespace, family: str) -> dict[str, Way]:
    """Our way and the baselines, by name. Raises: ConfigError for a script that isn't there."""
    from pipelines.families import FAMILIES
    from trainers.bench import kohya, train_ways

    pooled = FAMILIES[family].pooled
    ways: dict[str, Way] = {"pigment": train_ways.pigment()}
    if options.diffusers is not None:
        script = train_ways.find_script(options.diffusers, train_ways.SCRIPTS[pooled])
        ways["diffusers"] = train_ways.diffusers(script)
        if not pooled:  # the script for the others always embeds the prompt once
            ways["diffusers-cached-text"] = train_ways.diffusers(script, cached_text=True)
    if options.kohya is not None:
        script = kohya.find_script(options.kohya, kohya.SCRIPTS[pooled])
        ways["kohya"] = kohya.kohya(script, options.kohya_python or "")
        if pooled:  # the script for the others can't
            ways["kohya-cached-text"] = kohya.kohya(script, options.kohya_python or "", cached_text=True)
    return ways


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """A folder for models: one that stays, or one that is removed again."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="pigment-bench-models-") as name:
        yield Path(name)


def _case_of(one: Asked, options: argparse.Namespace, device: str, models: Path, folder: Path) -> Case:
    """Make the model and the pictures of a case. Raises: ConfigError, BaseError."""
    import torch

    from trainers.bench.models import RANDOM
    from trainers.bench.train_models import about, model_folder, random_folder, write_pictures
    from trainers.bench.train_ways import Case

    if one.source in RANDOM:
        model = random_folder(one.source, models, small=options.small, device=device)
    else:
        model = model_folder(one.source)
    family, resolution = about(model)
    resolution = options.resolution or resolution
    return Case(
        model=model,
        family=family,
        pictures=write_pictures(folder / "pictures", options.pictures, resolution),
        batch=one.batch,
        resolution=resolution,
        rank=options.rank,
        dtype=options.dtype or ("fp32" if device == "cpu" else "bf16"),
        device=device,
        steps=options.warm_up + options.steps,
        threads=options.threads or torch.get_num_threads(),
        cap_bytes=int((options.cap_gib or 0) * _GIB),
        checkpointing=options.checkpointing,
    )


def measure(
    case: Case, ways: Mapping[str, Way], options: argparse.Namespace, end: float | None
) -> dict[str, Any]:
    """Figures of a case: ours, each baseline's with its ratios, each mechanism's gain where it's asked for.

    end: see `turns`' deadline.
    """
    from trainers.bench.train_mechanisms import cache_gains, gains, switches
    from trainers.bench.train_turns import Turn, compared, figures_of, turns

    off = switches(case) if options.mechanisms else {}
    ways = {**ways, **{f"without {name}": way for name, way in off.items()}}
    taken: dict[str, list[Turn]] = {name: [] for name in ways}
    timeout = _HOUR if end is None else max(60.0, end - time.monotonic())
    plan = {"rounds": options.rounds, "warm_up": options.warm_up, "deadline": end, "timeout": timeout}
    for name, turn in turns(ways, case, **plan):
        taken[name].append(turn)
    ours = taken.pop("pigment")
    each = {name: gains(ours, taken.pop(f"without {name}")) for name in off}
    return {
        **{name: getattr(case, name) for name in ("family", "resolution", "rank", "dtype", "batch")},
        "warm_up": options.warm_up,
        "steps": options.steps,
        "pigment": figures_of(ours),
        "baselines": {name: compared(ours, theirs) for name, theirs in taken.items()},
        **({"mechanisms": {**each, **cache_gains(case, ours)}} if off else {}),
    }


if __name__ == "__main__":
    sys.exit(main())
