"""Moving sliders: our mixer against diffusers' unfuse, set and fuse, on the same adapters and layers."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.adapter import Adapter
from pipelines.base import Base, quiet
from pipelines.formats import write_adapter
from pipelines.generate import GenerationConfig, generate
from pipelines.mixer import Mixer
from trainers.bench.measuring import held_bytes, median, percentile, shares, timed

WARM_UP = 3
Mix = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. moves: of ours; baseline_moves: of diffusers'; rounds: turns of A and B.

    pictures: pairs with and without adapters. steps: of denoising.
    """

    moves: int = 200
    baseline_moves: int = 200
    rounds: int = 5
    pictures: int = 7
    steps: int = 20


class Diffusers:
    """The same adapters in a diffusers pipeline over a base of its own."""

    def __init__(self, base: Base, adapters: Mapping[str, Adapter]) -> None:
        self._names = list(adapters)
        self.pipeline: Any = base.pipeline()
        with tempfile.TemporaryDirectory() as folder, quiet():
            for name, adapter in adapters.items():
                write_adapter(adapter, Path(folder) / f"{name}.safetensors", "diffusers", "fp32")
                file = f"{name}.safetensors"
                self.pipeline.load_lora_weights(folder, weight_name=file, adapter_name=name)
        self._components = list(base.family.components)
        self.move(dict.fromkeys(adapters, 1.0), first=True)

    def move(self, mix: Mix, first: bool = False) -> None:
        """Unfuse what is fused, set the weights, fuse."""
        if not first:
            self.pipeline.unfuse_lora(components=self._components)
        self.pipeline.set_adapters(self._names, [mix[name] for name in self._names])
        self.pipeline.fuse_lora(components=self._components, adapter_names=self._names)


def draw_mixes(names: list[str], count: int, seed: int) -> list[Mix]:
    """`count` random mixes of weights from −1 to 2."""
    numbers = random.Random(seed)
    return [{name: numbers.uniform(-1, 2) for name in names} for _ in range(count)]


def originals(base: Base, adapters: Mapping[str, Adapter]) -> dict[str, torch.Tensor]:
    """A copy, off the device, of the weights that the adapters reach."""
    reached = {module for adapter in adapters.values() for module in adapter.factors}
    layers = base.modules()
    return {name: layers[name].weight.detach().to("cpu", copy=True) for name in layers if name in reached}


def error_of(
    layers: Mapping[str, Any], own: Mapping[str, torch.Tensor], adapters: Mapping[str, Adapter], mix: Mix
) -> float:
    """‖W − (W₀ + Σ wᵢΔWᵢ)‖ over ‖Σ wᵢΔWᵢ‖ of all layers together, in fp64."""
    wrong = right = 0.0
    for name, weight in own.items():
        now = layers[name].weight.detach()
        delta = torch.zeros_like(now, dtype=torch.float64)
        for key, adapter in adapters.items():
            if factors := adapter.factors.get(name):
                matrices = factors.matrices()
                assert matrices is not None
                up, down = (matrix.to(now.device, torch.float64) for matrix in matrices)
                delta += mix[key] * (up @ down).view_as(delta)
        wrong += float((now.double() - weight.to(now.device).double() - delta).square().sum())
        right += float(delta.square().sum())
    return (wrong / right) ** 0.5


def measure_moves(
    base: Base, other: Base, mixer: Mixer, adapters: Mapping[str, Adapter], plan: Plan
) -> dict[str, Any]:
    """Time moves of both in turn; `mixer` holds the adapters over `base`, diffusers gets `other`."""
    names, own = list(adapters), originals(other, adapters)
    layers = {id(b): {name: b.modules()[name] for name in own} for b in (base, other)}
    theirs = Diffusers(other, adapters)
    for mix in draw_mixes(names, WARM_UP, seed=1):
        mixer.set(mix)
        theirs.move(mix)
    ours_ms: list[list[float]] = []
    theirs_ms: list[list[float]] = []
    before = held_bytes(base.device)
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)
    mixes, baseline = draw_mixes(names, plan.moves, seed=2), draw_mixes(names, plan.baseline_moves, seed=3)
    last = mixes[-1]
    rounds = min(plan.rounds, plan.moves, plan.baseline_moves)
    counts = zip(shares(plan.moves, rounds), shares(plan.baseline_moves, rounds), strict=True)
    peak, ours_left, theirs_left = 0, list(mixes), list(baseline)
    for ours_count, theirs_count in counts:
        turn, ours_left = ours_left[:ours_count], ours_left[ours_count:]
        ours_ms.append(timed([partial(mixer.set, mix) for mix in turn], base.device))
        if base.device.type == "cuda":
            peak = max(peak, torch.cuda.max_memory_allocated(base.device))
        turn, theirs_left = theirs_left[:theirs_count], theirs_left[theirs_count:]
        theirs_ms.append(timed([partial(theirs.move, mix) for mix in turn], base.device))
        if base.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(base.device)
    ours_moves = [ms for part in ours_ms for ms in part]
    theirs_moves = [ms for part in theirs_ms for ms in part]
    ratios = [percentile(b, 95) / percentile(a, 95) for a, b in zip(ours_ms, theirs_ms, strict=True)]
    return {
        "blend_ms_p50": percentile(ours_moves, 50),
        "blend_ms_p95": percentile(ours_moves, 95),
        "diffusers_ms_p50": percentile(theirs_moves, 50),
        "diffusers_ms_p95": percentile(theirs_moves, 95),
        "blend_ratio_vs_diffusers": percentile(theirs_moves, 95) / percentile(ours_moves, 95),
        "blend_ratio_p50": percentile(theirs_moves, 50) / percentile(ours_moves, 50),
        "blend_ratio_rounds": [min(ratios), max(ratios)],
        "moves": len(ours_moves),
        "diffusers_moves": len(theirs_moves),
        "error": error_of(layers[id(base)], own, adapters, last),
        "diffusers_error": error_of(layers[id(other)], own, adapters, baseline[-1]),
        "kept_bytes": mixer.kept_bytes,
        "factor_bytes": mixer.factor_bytes,
        "peak_bytes": peak or mixer.kept_bytes + mixer.factor_bytes,
        "grown_bytes": held_bytes(base.device) - before,
    }


def measure_pictures(base: Base, plain: Base, mixer: Mixer, plan: Plan) -> dict[str, Any]:
    """Time a picture with the mixer's adapters against one of `plain`, which holds none, in turn."""
    config = GenerationConfig(prompt="a photo of a fox", seed=1, num_inference_steps=plan.steps)
    mixer.set(draw_mixes(list(mixer.names), 1, seed=4)[0])
    with_adapters: Callable[[], object] = partial(generate, base, config)
    without: Callable[[], object] = partial(generate, plain, config)
    timed([without, with_adapters], base.device)
    mixed_ms, plain_ms = [], []
    for index in range(plan.pictures):
        # Each pair in the other order, so that warming up or cooling down favours neither.
        pair = [without, with_adapters] if index % 2 else [with_adapters, without]
        first, second = timed(pair, base.device)
        plain_ms.append(first if index % 2 else second)
        mixed_ms.append(second if index % 2 else first)
    ratios = [mixed / plain for mixed, plain in zip(mixed_ms, plain_ms, strict=True)]
    return {
        "generate_ratio_k4": median(ratios),
        "generate_ratio_spread": [min(ratios), max(ratios)],
        "picture_ms": median(plain_ms),
        "picture_ms_mixed": median(mixed_ms),
        "pictures": plan.pictures,
        "steps": plan.steps,
    }
