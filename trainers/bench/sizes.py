"""What a step costs with ten pictures and with ten thousand: time, memory, and time to the first step.

`measure_sizes` runs a training for each count in a process of its own, on pictures of noise that each have a
caption of their own. Latents are made ready before, of random numbers in place of the VAE's: what they cost
is the VAE's time, and linear. The clock starts with the process.

`python -m trainers.bench.sizes (fill|train) FOLDER ROUND STEPS BASE DEVICE RESOLUTION BATCH` is one such
process; it prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import StudioError

if TYPE_CHECKING:
    from trainers.config import TrainConfig

WARM_UP = 5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. steps: timed ones, after WARM_UP others. resolution: side in pixels."""

    base: str = "pocket"
    device: str = "cpu"
    resolution: int = 128
    batch: int = 1
    steps: int = 40
    rounds: int = 3


def measure_sizes(counts: Sequence[int], plan: Plan | None = None) -> dict[str, Any]:
    """Measure trainings on `counts` pictures in turns, `plan.rounds` times.

    Returns: by count as text, medians over the rounds of `first_step_s` (from the start of the process),
    `start_s` (from the start of the training, imports left out), `step_s`, the same two as `start_cpu_s` and
    `step_cpu_s` of the process's own time, `peak_bytes` (of the process on a CPU, else of the card); and
    under "ratios" the largest count against the smallest: `step`, `step_cpu`, `peak`, and how much later each
    further thousand of pictures lets the first step come, `start_seconds_per_1000_pictures`.

    Raises: StudioError with what a process said where it failed.
    """
    plan = plan or Plan()
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {count: Path(temporary) / str(count) for count in counts}
        for count, folder in folders.items():
            draw(folder / "pictures", count, plan.resolution)
            _child("fill", folder, 0, plan)
        time.sleep(2.0)  # what has just been written isn't taken for settled (see `trainers.known`)
        for folder in folders.values():
            _child("train", folder, 0, plan)
        for number in range(1, plan.rounds + 1):
            for count, folder in folders.items():
                found[count].append(_child("train", folder, number, plan))
    medians = {
        count: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        for count, rounds in found.items()
    }
    few, many = medians[min(counts)], medians[max(counts)]
    more = max(counts) - min(counts)
    names = {"step": "step_s", "step_cpu": "step_cpu_s", "peak": "peak_bytes"}
    ratios = {name: many[figure] / few[figure] for name, figure in names.items()}
    if more:
        ratios["start_seconds_per_1000_pictures"] = 1000 * (many["start_s"] - few["start_s"]) / more
    return {**{str(count): figures for count, figures in medians.items()}, "ratios": ratios}


def draw(folder: Path, count: int, side: int) -> None:
    """Write `count` small pictures, each another one, and captions beside them."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
        picture.save(folder / f"{index:06d}.jpg", quality=80)
        (folder / f"{index:06d}.txt").write_text(f"a zuv pattern, number {index}")


def _child(kind: str, folder: Path, number: int, plan: Plan) -> dict[str, float]:
    from trainers.bench.train_turns import OFFLINE
    from trainers.bench.train_ways import ROOT

    command = [
        sys.executable, "-W", "ignore", "-m", "trainers.bench.sizes", kind, folder, number, plan.steps,
        plan.base, plan.device, plan.resolution, plan.batch,
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": paths}
    began = time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise StudioError(f"measuring {folder.name} pictures failed: {lines[-1][:300]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if "first_step_at" in found:
        found["first_step_s"] = found.pop("first_step_at") - began
    return found


def main() -> int:
    """Fill the caches of one training, or run it."""
    kind, folder, number, steps, base, device, resolution, batch = sys.argv[1:]
    plan = Plan(
        base=base, device=device, resolution=int(resolution), batch=int(batch), steps=int(steps), rounds=1
    )
    config = _config(Path(folder), int(number), plan)
    print(json.dumps(_fill(config) if kind == "fill" else _train(config)))
    return 0


def _config(folder: Path, number: int, plan: Plan) -> TrainConfig:
    from trainers.config import preset_config

    return preset_config(
        "sketch", "subject", instance_images=folder / "pictures", trigger="zuv", captions="sidecar",
        instance_prompt="a zuv pattern", prior_weight=0.0, held_out=0, resolution=plan.resolution,
        base=plan.base, device=plan.device, batch_size=plan.batch, steps=WARM_UP + plan.steps,
        output=folder / f"run-{number}", cache=folder / "cache", preview_every=0, evaluate_every=0,
        checkpoint_every=1_000_000, text_targets="none", unet_targets="attention",
    )  # fmt: skip


def _fill(config: TrainConfig) -> dict[str, float]:
    """Put latents of random numbers and embeddings of all captions into the cache."""
    import torch

    from pipelines.base import load_base
    from trainers.caching import encode_frames
    from trainers.conditions import PromptEncoder
    from trainers.dataset import load_dataset
    from trainers.learning import base_arguments
    from trainers.preparing import plan_cuts
    from trainers.processes import ALONE

    base: Any = load_base(config.run.base, **base_arguments(config, ALONE))
    channels, factor = base.latent_channels, base.vae_scale_factor

    def encode_images(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sides = (len(pixels), channels, pixels.shape[2] // factor, pixels.shape[3] // factor)
        return torch.randn(sides), torch.rand(sides)

    base.encode_images = encode_images
    cuts = plan_cuts(base, config, load_dataset(config.data))
    for _ in encode_frames(base, cuts.learn, config.run.cache):
        pass
    encoder = PromptEncoder(base, trained=False, folder=config.run.cache)
    for _ in encoder.prepare([frame.caption for frame in cuts.learn]):
        pass
    return {}


def _train(config: TrainConfig) -> dict[str, float]:
    from pipelines.bases.libraries import load_libraries
    from trainers.bench.loading import peak
    from trainers.bench.train_pigment import note_before_peak
    from trainers.bench.train_turns import per_step

    load_libraries()
    import torch

    from trainers.loop import train

    began, busy = time.monotonic(), time.process_time()  # processes share this clock
    at: list[tuple[float, float]] = []
    card = config.run.device != "cpu"

    def most() -> int:
        return torch.cuda.max_memory_allocated() if card else peak()

    held = [0]
    note_before_peak(lambda: held.append(most()))
    for event in train(config):
        if event.kind == "step":
            if card:
                torch.cuda.synchronize()
            at.append((time.monotonic(), time.process_time()))
    if len(at) < WARM_UP + 2:
        raise StudioError(f"only {len(at)} steps were taken; ask for more")
    return {
        "first_step_at": at[0][0],
        "start_s": at[0][0] - began,
        "start_cpu_s": at[0][1] - busy,
        # On a card several steps may be told at once.
        "step_s": statistics.median(per_step([wall for wall, _ in at], WARM_UP + 1)),
        "step_cpu_s": statistics.median(per_step([cpu for _, cpu in at], WARM_UP + 1)),
        "peak_bytes": float(max(*held, most())),
    }


if __name__ == "__main__":
    sys.exit(main())
