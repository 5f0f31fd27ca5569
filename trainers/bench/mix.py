"""`pigment bench mix`: how fast sliders answer and what a mix costs a picture, against diffusers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from trainers.bench.records import Arguments, answer, check_place, provenance, short

RECORD = Path(__file__).resolve().parents[2] / "tests" / "bench" / "results" / "mix.json"
SHOWN = (
    "blend_ms_p50",
    "blend_ms_p95",
    "diffusers_ms_p50",
    "diffusers_ms_p95",
    "blend_ratio_vs_diffusers",
    "generate_ratio_k4",
    "peak_bytes",
    "grown_bytes",
    "error",
    "diffusers_error",
)


def parser() -> Arguments:
    """The command's arguments."""
    made = Arguments(
        prog="pigment bench mix",
        description="Measure slider moves against diffusers' unfuse + set + fuse, and pictures with a mix "
        "against pictures without, in turns within one run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="pocket (if none is given), sd15 or sdxl (random weights, made on a CUDA device), or a "
        "diffusers folder; may be repeated",
    )
    made.add_argument("--small", action="store_true", help="sd15 and sdxl at an eighth of their width")
    made.add_argument("--device", help="cpu, cuda, …; the first of CUDA, MPS, XPU, CPU if not given")
    made.add_argument("--threads", type=int, help="of a CPU; PyTorch's choice if not given")
    made.add_argument("--adapters", type=int, default=4, help="how many are mixed")
    made.add_argument("--rank", type=int, help="of the adapters; 8, or 16 for sd15 and sdxl, if not given")
    made.add_argument(
        "--targets",
        default="attention+ff",
        choices=("attention", "attention+ff"),
        help="the UNet's linear layers that they are on; of the text encoders it is the attention",
    )
    made.add_argument("--moves", type=int, default=200, help="random moves of all sliders")
    made.add_argument("--baseline-moves", type=int, help="the same by diffusers; as --moves if not given")
    made.add_argument("--rounds", type=int, default=5, help="turns of the two ways")
    made.add_argument("--pictures", type=int, default=7, help="pairs of pictures with and without adapters")
    made.add_argument("--steps", type=int, default=20, help="denoising steps of a picture")
    made.add_argument("--out", type=Path, help="write the figures to this JSON file")
    made.add_argument("--record", action="store_true", help="keep them in tests/bench/results/mix.json too")
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure for a command line; 0, or 2 after one line that says what to do."""

    def measure(options: argparse.Namespace) -> dict[str, Any]:
        _check(options)
        return run(options)

    return answer("mix", parser(), argv, measure, RECORD)


def _check(options: argparse.Namespace) -> None:
    for name in ("moves", "adapters", "rounds", "pictures", "steps", "rank", "threads", "baseline_moves"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; give at least 1")
    if options.record:
        check_place(RECORD)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every model asked for. Raises: ConfigError, BaseError."""
    import torch

    from trainers.bench.models import subject

    if options.threads:
        torch.set_num_threads(options.threads)
    models = options.model or ["pocket"]
    kind = {"small": options.small, "rank": options.rank, "device": options.device}
    chosen = [subject(source, **kind) for source in models]
    found = {}
    for one in chosen:
        found[one.name] = _measure(one, options)
        if not options.json:
            print(one.name)
            for name in SHOWN:
                value = found[one.name][name]
                print(f"  {name:26} {value:.4g}" if isinstance(value, float) else f"  {name:26} {value}")
    return {"models": found, **provenance("mix", parser(), options)}


def _measure(one: Any, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from pipelines.mixer import Mixer
    from trainers.bench.blending import Plan, measure_moves, measure_pictures
    from trainers.bench.models import adapters, targets

    plan = Plan(
        moves=options.moves,
        baseline_moves=options.baseline_moves or options.moves,
        rounds=options.rounds,
        pictures=options.pictures,
        steps=options.steps,
    )
    base, other = one.load(), one.load()
    modules = targets(base, options.targets)
    made = adapters(base, modules, options.adapters, one.rank)
    about = {
        "adapters": options.adapters,
        "rank": one.rank,
        "targets": options.targets,
        "layers": len(modules),
        "device": torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else base.device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    with Mixer(base) as mixer:
        for name, adapter in made.items():
            mixer.add(name, adapter)
        about["route"] = mixer.route
        pictures = measure_pictures(base, other, mixer, plan)
        moves = measure_moves(base, other, mixer, made, plan)
    figures = {**about, **moves, **pictures}
    return {name: short(value) for name, value in figures.items()}


if __name__ == "__main__":
    sys.exit(main())
