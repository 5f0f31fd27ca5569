"""What a written adapter file is worth: read back by other ways than Pigment's own reader."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter, LowRank
from pipelines.errors import AdapterError
from pipelines.families import FAMILIES
from pipelines.formats import FORMATS
from pipelines.formats.keys import ALPHA, DOWN, UP

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base

_CHECK_SEED, _CHECK_STEPS = 7, 12


@dataclass(frozen=True)
class FileCheck:
    """A file read by safetensors itself against the adapter it came from.

    keys, matched: tensors in the file, and those that were expected. worst, total: relative
    Frobenius error of ΔW, of the worst module and of all together; infinity where one is missing.
    """

    keys: int
    matched: int
    worst: float
    total: float


@dataclass(frozen=True)
class DiffusersCheck:
    """A file loaded by diffusers against the adapter it came from.

    modules: how many modules diffusers put the adapter on. worst: largest relative Frobenius error
    of the ΔW that its layers apply. psnr_db: one seed's picture against the mixer's; infinity where
    they are equal.
    """

    modules: int
    worst: float
    psnr_db: float


def check_file(adapter: Adapter, path: Path, format: str) -> FileCheck:
    """Read a written file with safetensors itself and compare it with the adapter it came from.

    Only the key names are shared with the writer; the numbers are scaled and multiplied here.
    """
    import torch
    from safetensors import safe_open

    row, family = FORMATS[format], FAMILIES[adapter.family]
    roles = (DOWN, UP, ALPHA) if row.alpha_tensors else (DOWN, UP)
    matched, tally = 0, _Tally()
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        for module, factor in adapter.factors.items():
            names = [row.write_key(module, role, family) for role in roles]
            matched += sum(name in keys for name in names)
            if not keys.issuperset(names):
                tally.missing()
                continue
            read = [file.get_tensor(name).double() for name in names]
            scale = float(read[2]) / read[0].shape[0] if row.alpha_tensors else 1.0
            tally.add(scale * torch.einsum("or,ri->oi", read[1].flatten(1), read[0].flatten(1)), factor)
    return FileCheck(len(keys), matched, tally.worst, tally.total)


class _Tally:
    """Sums up how far ΔW of modules is from what was expected."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._error, self._norm = 0.0, 0.0

    @property
    def total(self) -> float:
        return math.sqrt(self._error / self._norm) if self._norm else math.sqrt(self._error)

    def missing(self) -> None:
        """Count a module that isn't there."""
        self.worst = self._error = math.inf

    def add(self, delta: torch.Tensor, factor: LowRank) -> None:
        """Count a module whose ΔW came back as `delta`, in any shape of (out, …)."""
        expected = (factor.up.detach().double().flatten(1) @ factor.down.detach().double().flatten(1)) * (
            factor.alpha / factor.rank
        )
        found = delta.detach().double().flatten(1)
        if found.shape != expected.shape:
            return self.missing()
        error, norm = float((found.cpu() - expected.cpu()).norm()), float(expected.norm())
        self._error, self._norm = self._error + error**2, self._norm + norm**2
        relative = error / norm if norm else error
        if not math.isfinite(relative):
            return self.missing()
        self.worst = max(self.worst, relative)
        return None


def check_diffusers(adapter: Adapter, path: Path, base: Base) -> DiffusersCheck:
    """Load a file into a fresh diffusers pipeline and compare layers and one picture with the mixer.

    The pipeline comes from the base's folder by `from_pretrained` and `load_lora_weights` and knows
    nothing of Pigment. A base that holds a mix is left alone; its folder is loaded anew then.

    Raises: AdapterError when diffusers can't load the file.
    """
    from pipelines.base import load_base, quiet
    from pipelines.generate import GenerationConfig, generate
    from pipelines.grids import psnr
    from pipelines.mixer import Mixer

    if base.holder is not None:
        base = load_base(base.path, device=str(base.device), dtype=base.dtype)
    trigger = adapter.triggers[0] if adapter.triggers else adapter.name
    config = GenerationConfig(
        prompt=f"a photo of {trigger}"[:1000], seed=_CHECK_SEED, num_inference_steps=_CHECK_STEPS
    )
    with Mixer(base) as mixer:
        mixer.add("exported", adapter)
        mixer.set({"exported": 1.0})
        ours = generate(base, config)[0].image
    with quiet():
        pipeline = _loaded_pipeline(path, base)
        modules, tally = 0, _Tally()
        for module, factor in adapter.factors.items():
            component, name = module.split(".", 1)
            layer: Any = getattr(pipeline, component).get_submodule(name)
            if getattr(layer, "active_adapters", None):
                modules += 1
                tally.add(layer.get_delta_weight(layer.active_adapters[0]), factor)
            else:
                tally.missing()
        theirs = _pipeline_picture(pipeline, base, config.prompt)
    return DiffusersCheck(modules, tally.worst, psnr(ours, theirs))


def _loaded_pipeline(path: Path, base: Base) -> Any:
    """Return a plain diffusers pipeline of the base's folder with the file loaded."""
    import diffusers

    pipeline = getattr(diffusers, base.family.pipeline_class).from_pretrained(
        base.path, dtype=base.dtype, safety_checker=None, local_files_only=True, use_safetensors=True
    )
    pipeline.to(base.device)
    pipeline.set_progress_bar_config(disable=True)
    try:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    except (ValueError, KeyError, RuntimeError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise AdapterError(
            f"export failed: diffusers can't load the file ({reason}); nothing was kept"
        ) from error
    return pipeline


def _pipeline_picture(pipeline: Any, base: Base, prompt: str) -> Image:
    """Draw the check's picture by one call of the diffusers pipeline."""
    from pipelines.generate import GenerationConfig, initial_noise
    from pipelines.samplers import make_scheduler

    defaults = GenerationConfig(prompt=prompt)
    pipeline.scheduler = make_scheduler(base, defaults.sampler)
    noise, generator = initial_noise(base, _CHECK_SEED, (base.resolution, base.resolution))
    image: Image = pipeline(
        prompt,
        latents=noise.to(base.device, base.dtype),
        generator=generator,
        num_inference_steps=_CHECK_STEPS,
        guidance_scale=defaults.guidance_scale,
        height=base.resolution,
        width=base.resolution,
    ).images[0]
    return image
