"""What each mechanism alone gives: the same training with it switched off, and what the caches save a step.

`python -m trainers.bench.train_mechanisms MODEL BATCH RESOLUTION DTYPE DEVICE THREADS COUNT` times the
encoding of a step's pictures and prompts, which a training without caches would do, and prints JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.bench.measuring import median
from trainers.bench.train_turns import OFFLINE, Turn
from trainers.bench.train_ways import PROMPT, ROOT, Case, Way, pigment
from trainers.settings.run import MECHANISMS


@dataclass(frozen=True)
class Switch:
    """How a mechanism is left out. changes: of settings. devices: that it acts on."""

    changes: Mapping[str, Any]
    devices: tuple[str, ...] = ("cpu", "cuda")


SWITCHES: dict[str, Switch] = {
    **{name: Switch({"run.without": [name]}) for name in MECHANISMS},
    "readings": Switch({"run.without": ["readings"]}, ("cuda",)),
    "channels_last": Switch({"run.channels_last": False}),
    "attention": Switch({"run.attention": "native_math"}),
    "no_recomputing": Switch({"run.gradient_checkpointing": "all"}),
    "parts_off_the_device": Switch({"run.offload": "none"}, ("cuda",)),
    "half_precision": Switch({"run.precision": "fp32"}, ("cuda",)),
    "threads": Switch({"run.threads": 1}, ("cpu",)),
}
"""Mechanisms and what to set so that one of them is missing."""

CACHES = {"latent_cache": "pictures", "text_cache": "prompts"}
"""Mechanisms that can't be switched off, and what a training without them would encode in every step."""


def switches(case: Case) -> dict[str, Way]:
    """Return our way without each mechanism that acts on a case, by the mechanism's name."""
    idle = {
        "no_recomputing": case.checkpointing,
        "half_precision": case.dtype == "fp32",
        "threads": case.threads == 1,
    }
    return {
        name: pigment(switch.changes)
        for name, switch in SWITCHES.items()
        if case.device in switch.devices and not idle.get(name)
    }


def gains(all_on: Sequence[Turn], without: Sequence[Turn]) -> dict[str, Any]:
    """What a mechanism gives: without it over with it, turn by turn; above 1 is a gain.

    gain: of seconds per step; cpu_gain: of the threads' time; peak_gain, first_step_gain: of memory and of
    the time to the first step. Medians; the spread is the smallest and the largest gain.
    """
    if without[-1].failed or all_on[-1].failed:
        return {"failed": without[-1].failed or all_on[-1].failed}
    pairs = list(zip(all_on, without, strict=False))
    steps = [median(b.step_s) / median(a.step_s) for a, b in pairs]
    return {
        "gain": median(steps),
        "gain_spread": [min(steps), max(steps)],
        "cpu_gain": median([b.cpu_s / a.cpu_s for a, b in pairs]),
        "peak_gain": median([b.peak_bytes / a.peak_bytes for a, b in pairs]),
        "first_step_gain": median([b.first_step_s / a.first_step_s for a, b in pairs]),
    }


def cache_gains(case: Case, all_on: Sequence[Turn], count: int = 20) -> dict[str, Any]:
    """What the caches give: a step and the encoding that they save, over a step; by seconds.

    Where the encoding fails, each has its last words as "failed".
    """
    if all_on[-1].failed:
        return {}
    about = (case.model, case.batch, case.resolution, case.dtype, case.device, case.threads, count)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "trainers.bench.train_mechanisms", *map(str, about)],
        capture_output=True,
        text=True,
        env={**os.environ, **OFFLINE, "OMP_NUM_THREADS": str(case.threads), "PYTHONPATH": paths},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        failed = f"timing the encoding ended with {done.returncode}: {lines[-1][:200]}"
        return {name: {"failed": failed} for name in CACHES}
    taken = json.loads(done.stdout.splitlines()[-1])
    found = {}
    for name, what in CACHES.items():
        saved = median(taken[what]) / 1e3
        each = [1 + saved / median(turn.step_s) for turn in all_on]
        found[name] = {"gain": median(each), "gain_spread": [min(each), max(each)], "saved_ms": 1e3 * saved}
    return found


def encoding(case: Case, count: int) -> dict[str, list[float]]:
    """Milliseconds of each of `count` encodings of a step's pictures and prompts, here and now."""
    import torch

    from pipelines.base import load_base
    from trainers.bench.measuring import timed

    torch.set_num_threads(case.threads)
    base = load_base(case.model, device=case.device, dtype=case.dtype)
    pixels = torch.zeros((case.batch, 3, case.resolution, case.resolution), device=base.device)
    prompts = [PROMPT] * case.batch

    def pictures() -> None:
        mean, std = base.encode_images(pixels)
        torch.addcmul(mean, std, torch.randn_like(mean))

    def embeddings() -> None:
        with torch.no_grad():
            base.condition(prompts)

    found = {}
    for name, call in (("pictures", pictures), ("prompts", embeddings)):
        timed([call] * 3, base.device)
        found[name] = timed([call] * count, base.device)
    return found


def main() -> None:
    """Print the figures of `encoding` for a command line."""
    from pathlib import Path

    model, batch, resolution, dtype, device, threads, count = sys.argv[1:]
    case = Case(
        model=Path(model), family="", pictures=Path(), batch=int(batch), resolution=int(resolution), rank=1,
        dtype=dtype, device=device, steps=1, threads=int(threads),
    )  # fmt: skip
    print(json.dumps(encoding(case, int(count))))


if __name__ == "__main__":
    main()
