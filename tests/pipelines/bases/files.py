"""Single files for the tests: names and shapes of the published models, and tiny ones with numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pipelines.base import quiet
from pipelines.bases.configs import VARIANTS, configs_of
from pipelines.bases.layout import Whole, wholes
from pipelines.families import FAMILIES
from pipelines.formats.container import Entry, Header

Shapes = dict[str, tuple[int, ...]]


@lru_cache
def published(name: str) -> dict[str, Shapes]:
    """Every tensor of a published model, by part and diffusers' name; the modules take no memory."""
    import transformers
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel

    configs, family = configs_of(name).configs, FAMILIES[VARIANTS[name].family]
    with quiet(), init_empty_weights():
        modules: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(dict(configs["unet"])),
            "vae": AutoencoderKL.from_config(dict(configs["vae"])),
        }
        for row in family.text_encoders:
            config = transformers.CLIPTextConfig.from_dict(dict(configs[row.component]))
            modules[row.component] = getattr(transformers, row.model_class)(config)
    return {
        part: {key: tuple(value.shape) for key, value in module.named_parameters()}
        for part, module in modules.items()
    }


@lru_cache
def published_file(name: str) -> Shapes:
    """Every tensor of a published model's single file as `wholes` names them."""
    shapes = published(name)
    made = wholes(shapes, FAMILIES[VARIANTS[name].family])
    return {key: file_shape(whole, shapes) for key, whole in made.items()}


def file_shape(whole: Whole, shapes: Mapping[str, Shapes]) -> tuple[int, ...]:
    """The shape of a file's tensor made of diffusers' of these shapes."""
    parts = [shapes[part][name] for part, name in whole.sources]
    joined = (sum(shape[0] for shape in parts), *parts[0][1:])
    return whole.shape or (joined[::-1] if whole.transposed else joined)


def header(shapes: Mapping[str, tuple[int, ...]], *, dtype: str = "F16", **metadata: str) -> Header:
    """A header of tensors of these shapes; their bytes aren't said."""
    tensors = {key: Entry(dtype, tuple(shape), 0, 0) for key, shape in shapes.items()}
    named = {key.replace("__", "."): value for key, value in metadata.items()}
    return Header(tensors=tensors, metadata=named, data_start=0)


def state_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of a tiny pipeline folder, by part and the names of today's modules."""
    from pipelines.base import load_base

    base = load_base(folder, device="cpu")
    modules = {**{name: base.component(name) for name in base.family.components}, "vae": base.vae}
    return {part: dict(module.named_parameters()) for part, module in modules.items()}


def single_file(state: Mapping[str, Mapping[str, torch.Tensor]], family: str) -> dict[str, torch.Tensor]:
    """The tensors of one file in the original layout."""
    shapes = {part: shapes_of(tensors) for part, tensors in state.items()}
    made = wholes(shapes, FAMILIES[family])
    return {key: whole.make(lambda part, name: state[part][name].detach()) for key, whole in made.items()}


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """Names to shapes."""
    return {key: tuple(value.shape) for key, value in tensors.items()}


def without(shapes: Shapes, *starts: str) -> Shapes:
    """The shapes without names that begin so."""
    return {key: shape for key, shape in shapes.items() if not key.startswith(starts)}
