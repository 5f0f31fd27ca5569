"""Pictures by Pigment and by plain diffusers, with K adapters, in turns; and previews under a slider."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.generate import GenerationConfig, generate
from pipelines.live import Live, Request, live_config
from pipelines.mixer import Mixer
from trainers.bench.blending import Diffusers, draw_mixes
from trainers.bench.loading import peak, reset_peak
from trainers.bench.measuring import median, percentile, timed
from trainers.bench.models import Subject, adapters, targets

PROMPT = "a photo of a fox"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. counts: of adapters. rounds: turns of the two ways, each with a model of its own.

    pictures: per turn and count. steps, guidance_scale: of a picture.
    """

    counts: tuple[int, ...] = (0, 1, 4)
    rounds: int = 3
    pictures: int = 3
    steps: int = 20
    guidance_scale: float = 3.0


@dataclass
class Turn:
    """One way's pictures with one count of adapters: milliseconds each, the most bytes beside the model."""

    milliseconds: list[float]
    grown_bytes: int


def measure_pictures(subject: Subject, plan: Plan) -> dict[str, dict[str, Any]]:
    """Draw the same pictures by both ways in turn; returns figures by count of adapters.

    Only one model is loaded at a time. diffusers draws as its documentation advises for speed: the fused
    attention of PyTorch, channels last on a card, adapters fused into the weights.
    """
    ways: dict[str, Callable[[Base, int, Subject, Plan], Turn]] = {"ours": _ours, "theirs": _theirs}
    turns: dict[tuple[str, int], list[Turn]] = {}
    size = 0
    for index in range(plan.rounds):
        # Each round in the other order, so that warming up or cooling down favours neither.
        for way in list(ways) if index % 2 == 0 else list(reversed(ways)):
            for count in plan.counts:
                base = subject.load()
                size = model_bytes(base)
                turns.setdefault((way, count), []).append(ways[way](base, count, subject, plan))
                del base
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
    return {str(count): _figures(turns["ours", count], turns["theirs", count], size) for count in plan.counts}


def _figures(ours: list[Turn], theirs: list[Turn], size: int) -> dict[str, Any]:
    ratios = [
        median(mine.milliseconds) / median(other.milliseconds)
        for mine, other in zip(ours, theirs, strict=True)
    ]
    return {
        "seconds": median([ms for turn in ours for ms in turn.milliseconds]) / 1e3,
        "diffusers_seconds": median([ms for turn in theirs for ms in turn.milliseconds]) / 1e3,
        "ratio_vs_diffusers": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "peak_bytes": size + max(turn.grown_bytes for turn in ours),
        "diffusers_peak_bytes": size + max(turn.grown_bytes for turn in theirs),
    }


def _ours(base: Base, count: int, subject: Subject, plan: Plan) -> Turn:
    config = GenerationConfig(
        prompt=PROMPT, seed=1, num_inference_steps=plan.steps, guidance_scale=plan.guidance_scale
    )
    if not count:
        return _timed(partial(generate, base, config), base.device, plan.pictures)
    made = adapters(base, targets(base), count, subject.rank)
    with Mixer(base) as mixer:
        for name, adapter in made.items():
            mixer.add(name, adapter)
        mixer.set(draw_mixes(list(made), 1, seed=4)[0])
        return _timed(partial(generate, base, config), base.device, plan.pictures)


def _theirs(base: Base, count: int, subject: Subject, plan: Plan) -> Turn:
    from diffusers import DDIMScheduler

    if base.device.type == "cuda":
        base.unet.to(memory_format=torch.channels_last)
        base.vae.to(memory_format=torch.channels_last)
    made: Mapping[str, Adapter] = adapters(base, targets(base), count, subject.rank) if count else {}
    if count:
        mixed = Diffusers(base, made)
        mixed.move(draw_mixes(list(made), 1, seed=4)[0])
        pipeline = mixed.pipeline
    else:
        pipeline = base.pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)

    def draw() -> object:
        generator = torch.Generator("cpu").manual_seed(1)
        return pipeline(
            PROMPT, num_inference_steps=plan.steps, guidance_scale=plan.guidance_scale, generator=generator,
            height=base.resolution, width=base.resolution,
        )  # fmt: skip

    return _timed(draw, base.device, plan.pictures)


def _timed(draw: Callable[[], object], device: torch.device, pictures: int) -> Turn:
    """One picture to warm up and to see what it takes beside the model, then those that are timed."""
    card = device.type == "cuda"
    if card:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if card else reset_peak()
    draw()
    grown = (torch.cuda.max_memory_allocated(device) if card else peak()) - before
    return Turn(timed([draw] * pictures, device), grown)


def model_bytes(base: Base) -> int:
    """Bytes of a base's weights."""
    networks = [base.vae, *(base.component(name) for name in base.family.components)]
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def measure_previews(subject: Subject, moves: int) -> dict[str, Any]:
    """Time from a new weight to its picture, by the engine behind live previews, for `moves` random weights.

    Two adapters, on UNet and text encoders alike, so that each move has the prompt encoded anew.
    """
    base = subject.load()
    made = adapters(base, targets(base), 2, subject.rank)
    taken = []
    with Mixer(base) as mixer:
        for name, adapter in made.items():
            mixer.add(name, adapter)
        with Live(mixer) as live:
            config = live_config(PROMPT, seed=1)
            for index, mix in enumerate(draw_mixes(list(made), moves + 2, seed=5)):
                begin = time.perf_counter()
                live.wait(live.submit(Request(config=config, weights=mix)))
                if index >= 2:  # two to warm up
                    taken.append((time.perf_counter() - begin) * 1e3)
    return {
        "preview_ms_p50": percentile(taken, 50),
        "preview_ms_p95": percentile(taken, 95),
        "preview_moves": len(taken),
        "preview_steps": config.num_inference_steps,
    }
