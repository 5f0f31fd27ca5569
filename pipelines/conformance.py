"""What a written adapter file is worth: read back by other ways than Pigment's own reader."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter
from pipelines.errors import AdapterError
from pipelines.families import FAMILIES, with_text_model
from pipelines.formats import FORMATS, read_adapter
from pipelines.methods import METHODS
from pipelines.reference import BIASES

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base

_CHECK_SEED, _CHECK_STEPS = 7, 12


@dataclass(frozen=True)
class FileCheck:
    """A file read by safetensors itself against the adapter it came from.

    keys: tensors in the file. matched: those that belong to a module of the adapter by the form's
    spelling. expected: how many there should be. worst, total: relative Frobenius error of ΔW, of the
    worst module and of all together; infinity where one is missing. independent: whether ΔW was made
    by formulas of their own (`pipelines.reference`); else the file went through Pigment's reader.
    modules: how many the file has, with those of ΔW = 0 that the form adds for its readers' sake.
    """

    keys: int
    matched: int
    expected: int
    worst: float
    total: float
    independent: bool
    modules: int = 0


@dataclass(frozen=True)
class LoadedCheck:
    """A file loaded by another library against the adapter it came from.

    library: its name. modules: how many modules (or learned tokens) it put the adapter on. worst:
    largest relative Frobenius error of the ΔW that its layers apply. psnr_db: one seed's picture
    against the mixer's; infinity where they are equal, None for an inpainting base.
    """

    library: str
    modules: int
    worst: float
    psnr_db: float | None


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

    def add(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        """Count a module whose ΔW came back as `found`, in any shape of (out, …)."""
        found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
        if found.numel() != expected.numel() or found.shape[0] != expected.shape[0]:
            return self.missing()
        error, norm = float((found.flatten() - expected.flatten()).norm()), float(expected.norm())
        self._error, self._norm = self._error + error**2, self._norm + norm**2
        relative = error / norm if norm else error
        if not math.isfinite(relative):
            return self.missing()
        self.worst = max(self.worst, relative)
        return None


def check_file(adapter: Adapter, path: Path, format: str, base: Base | None = None) -> FileCheck:
    """Read a written file by safetensors itself and compare it with the adapter it came from.

    Only the key names are shared with the writer. base: needed where ΔW depends on its weights;
    without it such modules are read by Pigment's own reader and compared part by part.
    """
    adapter = _padded(adapter, format)
    groups, others = _grouped(_raw_tensors(path), adapter, format)
    expected: set[str] = set()
    matched: set[str] = set()
    tally, weights, independent = _Tally(), _weights(base), True
    again: Adapter | None = None
    for module, factors in adapter.factors.items():
        found = groups[module]
        here = {key for key, _ in found.values()}
        stated = {_key(module, part, adapter, format) for part in _written(factors, format)}
        alpha = {found["alpha"][0]} if "alpha" in found else set()
        matched, expected = matched | here, expected | stated | alpha
        if not stated <= here:
            tally.missing()
            continue
        weight = weights.get(module)
        delta = None
        if FORMATS[format].kind == "file" and not FORMATS[format].exact:
            tensors = {ending: tensor for ending, (_, tensor) in found.items()}
            delta = _reference(tensors, weight, unscaled=not FORMATS[format].alpha_tensors)
        if delta is None:
            independent, again = False, again or read_adapter(path, family=adapter.family)
            back = again.factors[module]
            if not factors.has_delta or (weight is None and METHODS[factors.method].needs_weight):
                _compare_parts(tally, factors.parts, back.parts)
                continue
            delta = back.delta(weight)
        tally.add(delta, _expected(factors, weight))
        for ending in BIASES & found.keys():
            tally.add(found[ending][1], factors.parts[ending])
    vectors = found_vectors = 0
    for token, wanted in adapter.tokens.items():
        again, independent = again or read_adapter(path, family=adapter.family), False
        vectors += len(wanted)
        found_vectors += len(again.tokens.get(token, {}))
        _compare_parts(tally, wanted, again.tokens.get(token, {}))
    return FileCheck(
        len(matched) + len(others),
        len(matched) + found_vectors,
        len(expected) + vectors,
        tally.worst,
        tally.total,
        independent,
        len(adapter.factors),
    )


def _padded(adapter: Adapter, format: str) -> Adapter:
    """The adapter with the modules of ΔW = 0 that a form adds for its readers' sake."""
    written = FORMATS[format].normalise(adapter.factors)
    added = {name: factors for name, factors in written.items() if name not in adapter.factors}
    if any(float(factors.delta().norm()) for factors in added.values()):
        raise AdapterError(f"export of {adapter.name!r} failed: the {format} form adds more than zeros")
    return replace(adapter, factors={**adapter.factors, **added})


def _reference(tensors: dict[str, torch.Tensor], weight: Any, *, unscaled: bool) -> torch.Tensor | None:
    from pipelines.reference import reference_delta

    return reference_delta(tensors, weight, unscaled=unscaled)


def _expected(factors: Any, weight: torch.Tensor | None) -> torch.Tensor:
    """ΔW of an adapter's module, in fp64 for plain factors so that rounding isn't counted twice."""
    import torch

    if factors.method == "lora":
        up, down = factors.up.detach().double(), factors.down.detach().double()
        return torch.einsum("or,r...->o...", up.flatten(1), down) * (factors.alpha / factors.rank)
    found: torch.Tensor = factors.delta(weight)
    return found


def _written(factors: Any, format: str) -> list[str]:
    """The parts that have tensors of their own in a form; PEFT keeps some in its config."""
    if FORMATS[format].kind == "file":
        return list(factors.parts)
    spelled = {one.name for one in METHODS[factors.method].parts if one.peft}
    return [part for part in factors.parts if part in spelled]


def _compare_parts(tally: _Tally, expected: Any, found: Any) -> None:
    """Compare tensors by name, where there is no formula to make ΔW by."""
    for name, tensor in expected.items():
        if name in found:
            tally.add(found[name].reshape(tensor.shape), tensor)
        else:
            tally.missing()


def _raw_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file, or of a folder's files with the subfolder's name before the key."""
    from safetensors.torch import load_file

    if path.is_file():
        return dict(load_file(path))
    files = sorted(path.glob("*/*.safetensors"))
    return {f"{file.parent.name}:{key}": value for file in files for key, value in load_file(file).items()}


def _grouped(
    tensors: dict[str, torch.Tensor], adapter: Adapter, format: str
) -> tuple[dict[str, dict[str, tuple[str, torch.Tensor]]], list[str]]:
    """Sort a file's tensors to the adapter's modules: module → ending → (key, tensor); and what is left."""
    left = dict(tensors)
    groups: dict[str, dict[str, tuple[str, torch.Tensor]]] = {}
    for module, factors in adapter.factors.items():
        keys = [_key(module, part, adapter, format) for part in (*factors.parts, "alpha")]
        stem = _common_stem(keys)
        groups[module] = {key[len(stem) :]: (key, tensors[key]) for key in keys if key in tensors}
        for key in keys:
            left.pop(key, None)
    return groups, list(left)


def _key(module: str, part: str, adapter: Adapter, format: str) -> str:
    """The key of a module's part in `_raw_tensors`; what PEFT keeps once for all stands at the top."""
    family, component = FAMILIES[adapter.family], module.split(".", 1)[0]
    if FORMATS[format].kind == "file":
        return FORMATS[format].write_key(module, part, family)
    spelled = {one.name: one for one in METHODS[adapter.factors[module].method].parts}
    if part not in spelled or not spelled[part].peft:  # it stands in the folder's config
        return f"{component}:{module}.{part}"
    if spelled[part].shared:
        return f"{component}:base_model.{spelled[part].peft}"
    path = module.split(".", 1)[1]
    encoders = {encoder.component: encoder.model_class for encoder in family.text_encoders}
    if encoders.get(component) == "CLIPTextModelWithProjection":  # keeps the level that CLIPTextModel lost
        path = with_text_model(path)
    return f"{component}:base_model.model.{path}.{spelled[part].peft}"


def _common_stem(keys: list[str]) -> str:
    """The beginning that all keys share, up to and with a dot."""
    shared = keys[0]
    for key in keys[1:]:
        while not key.startswith(shared):
            shared = shared[:-1]
    return shared[: shared.rfind(".") + 1]


def _weights(base: Base | None) -> dict[str, torch.Tensor]:
    """The base's own weights by module name; empty without a base, or while a mix is written into it."""
    if base is None or base.holder is not None:
        return {}
    modules: dict[str, Any] = dict(base.weighted())
    return {name: module.weight.detach() for name, module in modules.items()}


def check_loaded(adapter: Adapter, path: Path, format: str, base: Base) -> LoadedCheck | None:
    """Load a file by another library; compare its layers, and one picture with the mixer's.

    The pipeline comes from the base's folder by `from_pretrained` and knows nothing of Pigment; of a single
    file it is put together of a second loading. A base that holds a mix is left alone and loaded anew.

    Returns: None where no other library reads the form, or the biases alone that it holds (LyCORIS looks for
    a `diff` beside each `diff_b`; ComfyUI doesn't). Raises: AdapterError when it can't load the file.
    """
    from pipelines.base import quiet
    from pipelines.elsewhere import LIBRARIES, refusals
    from pipelines.generate import GenerationConfig, generate
    from pipelines.grids import psnr
    from pipelines.mixer import Mixer

    library = LIBRARIES.get(format)
    if library is None or not all(factors.has_delta for factors in adapter.factors.values()):
        return None
    if base.holder is not None:
        base = base.again()
    adapter = _padded(adapter, format)
    words = (*adapter.tokens, *adapter.triggers, adapter.name)
    config = GenerationConfig(
        prompt=f"a photo of {words[0]}"[:1000], seed=_CHECK_SEED, num_inference_steps=_CHECK_STEPS
    )
    weights = _weights(base)
    expected = {name: _expected(factors, weights[name]) for name, factors in adapter.factors.items()}
    for token, vectors in adapter.tokens.items():
        expected |= {f"{component}:{token}": vector for component, vector in vectors.items()}
    with Mixer(base) as mixer:
        mixer.add("exported", adapter)
        mixer.set({"exported": 1.0})
        ours = generate(base, config)[0].image
    with quiet():
        pipeline = _pipeline(base)
        changes = library.load(pipeline, adapter, path)
        theirs = None
        if not base.inpainting:  # diffusers draws with those over a picture only
            with refusals(library.name, "draw with the file"):
                theirs = _pipeline_picture(pipeline, base, config.prompt)
        tally = _Tally()
        for name, wanted in expected.items():
            if name in changes:
                tally.add(changes[name](), wanted)
            else:
                tally.missing()
    return LoadedCheck(library.name, len(changes.keys() & expected.keys()), tally.worst,
                       None if theirs is None else psnr(ours, theirs))  # fmt: skip


def _pipeline(base: Base) -> Any:
    """Return a plain diffusers pipeline of the base's folder, or over a second loading of its file."""
    import diffusers

    from pipelines.base import pipeline_extras

    assert base.source is not None
    if base.source.is_file or base.source.vae_path is not None or base.inpainting:
        return base.again().pipeline()
    kind = getattr(diffusers, base.family.pipeline_class)
    extras = {k: v for k, v in pipeline_extras(kind, base.zero_empty).items() if v is not None}
    extras |= {"safety_checker": None} if base.family.pipeline_class == "StableDiffusionPipeline" else {}
    pipeline = kind.from_pretrained(
        base.path, dtype=base.dtype, local_files_only=True, use_safetensors=True, **extras
    )
    pipeline.to(base.device)
    pipeline.set_progress_bar_config(disable=True)
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
