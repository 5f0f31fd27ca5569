"""`pigment bench generate`: pictures, loading and previews, against plain diffusers at the same settings."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from trainers.bench.records import Arguments, answer, check_place, provenance, short

RECORD = Path(__file__).resolve().parents[2] / "tests" / "bench" / "results" / "generate.json"
PARTS = ("loading", "pictures", "preview")


def parser() -> Arguments:
    """The command's arguments."""
    made = Arguments(
        prog="pigment bench generate",
        description="Measure loading, pictures with adapters and live previews against plain diffusers, in "
        "turns within one run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="pocket (if none is given), sd15 or sdxl (random weights; their pictures need a CUDA device), a "
        "diffusers folder; may be repeated",
    )
    made.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    made.add_argument("--small", action="store_true", help="sd15 and sdxl at an eighth of their width")
    made.add_argument("--device", help="cpu, cuda, …; the first of CUDA, MPS, XPU, CPU if not given")
    made.add_argument(
        "--dtype", help="fp32, fp16 or bf16, which the model's name then says; the usual one if not given"
    )
    made.add_argument("--cap-gib", type=float, help="use no more of a CUDA card's memory, in GiB")
    made.add_argument("--threads", type=int, help="of a CPU; PyTorch's choice if not given")
    made.add_argument("--adapters", default="0,1,4", help="how many are mixed, one after the other")
    made.add_argument("--rank", type=int, help="of the adapters; 8, or 16 for sd15 and sdxl, if not given")
    made.add_argument("--rounds", type=int, default=5, help="turns of the two ways")
    made.add_argument("--pictures", type=int, default=3, help="per turn and count of adapters")
    made.add_argument("--steps", type=int, default=20, help="denoising steps of a picture")
    made.add_argument("--moves", type=int, default=40, help="of a slider, each with a preview")
    made.add_argument("--out", type=Path, help="write the figures to this JSON file")
    made.add_argument(
        "--record", action="store_true", help="keep them in tests/bench/results/generate.json too"
    )
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure for a command line; 0, or 2 after one line that says what to do."""
    return answer("generate", parser(), argv, lambda options: run(options, _check(options)), RECORD)


def _check(options: argparse.Namespace) -> tuple[int, ...]:
    for name in ("rounds", "pictures", "steps", "rank", "threads", "moves", "cap_gib"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; give at least 1")
    if options.record:
        check_place(RECORD)
    try:
        counts = tuple(int(part) for part in options.adapters.split(","))
    except ValueError:
        counts = (-1,)
    if min(counts) < 0:
        raise ConfigError(f"--adapters is {options.adapters!r}; give numbers like 0,1,4")
    return counts


def run(options: argparse.Namespace, counts: tuple[int, ...]) -> dict[str, Any]:
    """Measure every model asked for. Raises: ConfigError, BaseError."""
    import torch

    from pipelines.device import choose_device
    from trainers.bench.models import RANDOM, Subject

    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = choose_device(options.device)
    if options.cap_gib is not None:
        if chosen.device.type != "cuda":
            raise ConfigError("--cap-gib limits a CUDA card, and none is used here; leave it out")
        total = torch.cuda.get_device_properties(chosen.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.cap_gib * 2**30 / total))
    found: dict[str, Any] = {}
    for source in options.model or ["pocket"]:
        made = source in RANDOM
        name = f"{source}-small" if made and options.small else source if made else Path(source).name
        name += f"-{options.dtype}" if options.dtype else ""
        name += f"-{options.cap_gib:g}gib" if options.cap_gib is not None else ""
        rank = options.rank or (16 if made else 8)
        subject = Subject(name, source, options.small, rank, options.device, options.dtype)
        found[name] = short(_measure(subject, options, counts, chosen))
        if not options.json:
            print(name)
            for key, value in found[name].items():
                print(f"  {key:22} {value}")
    return {"models": found, **provenance("generate", parser(), options)}


def _measure(
    subject: Any, options: argparse.Namespace, counts: tuple[int, ...], chosen: Any
) -> dict[str, Any]:
    """Figures of one model: what was asked for of loading, pictures and previews."""
    import torch

    from trainers.bench import drawing
    from trainers.bench.models import RANDOM

    parts = options.part or list(PARTS)
    device = torch.cuda.get_device_name(chosen.device) if chosen.device.type == "cuda" else chosen.device.type
    figures: dict[str, Any] = {"device": device, "threads": torch.get_num_threads(), "rank": subject.rank}
    if "loading" in parts:
        figures |= measure_loading(subject, options)
    heavy = subject.source in RANDOM and not subject.small and chosen.device.type == "cpu"
    if heavy and options.part and set(options.part) != {"loading"}:
        raise ConfigError(
            f"pictures of {subject.source!r} in full size need a CUDA device; add --small or --part loading"
        )
    if heavy:
        return figures
    plan = drawing.Plan(counts=counts, rounds=options.rounds, pictures=options.pictures, steps=options.steps)
    if "pictures" in parts:
        figures |= {"steps": options.steps, "adapters": drawing.measure_pictures(subject, plan)}
    if "preview" in parts:
        figures |= drawing.measure_previews(subject, options.moves)
    return figures


def measure_loading(subject: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Load by both ways in turn, each time in a process of its own; medians, and the ratio of each turn."""
    from pipelines.device import DTYPES, choose_device
    from trainers.bench.loading import WAYS, measured
    from trainers.bench.measuring import median

    usual = choose_device(options.device).dtype
    dtype = options.dtype or next(name for name, kind in DTYPES.items() if kind == usual)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with _on_disk(subject) as (path, config):
        for way in WAYS:  # the files are in the system's memory for both then
            measured(way, path, config=config, dtype=dtype, device=options.device)
        for index in range(options.rounds):
            for way in WAYS if index % 2 == 0 else reversed(WAYS):
                found[way].append(measured(way, path, config=config, dtype=dtype, device=options.device))
    ours, theirs = found["pigment"], found["diffusers"]
    ratios = [other["seconds"] / mine["seconds"] for mine, other in zip(ours, theirs, strict=True)]
    size = ours[0]["size_bytes"]
    return {
        "load_dtype": dtype,
        "load_bytes": size,
        "load_seconds": median([turn["seconds"] for turn in ours]),
        "load_diffusers_seconds": median([turn["seconds"] for turn in theirs]),
        "load_ratio": median(ratios),
        "load_ratio_spread": [min(ratios), max(ratios)],
        "load_peak_over_size": max(turn["peak_bytes"] for turn in ours) / size,
        "load_host_over_size": max(turn["host_bytes"] for turn in ours) / size,
        "load_diffusers_peak_over_size": max(turn["peak_bytes"] for turn in theirs) / size,
    }


@contextmanager
def _on_disk(subject: Any) -> Iterator[tuple[Path, Path | None]]:
    """The model's folder, or a file of random weights that is removed again, and its configs."""
    from pipelines.bases.source import local_path
    from trainers.bench.models import RANDOM, SMALLER, random_file

    if subject.source not in RANDOM:
        yield local_path(subject.source, half=False), None
        return
    with tempfile.TemporaryDirectory(prefix="pigment-bench-") as folder:
        path = Path(folder) / "model.safetensors"
        yield path, random_file(subject.source, path, divisor=SMALLER if subject.small else 1)


if __name__ == "__main__":
    sys.exit(main())
