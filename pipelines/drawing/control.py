"""ControlNets: a picture of edges, depth or a pose that the drawing follows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.drawing.images import fitted, plain, to_pixels
from pipelines.drawing.networks import keep, load_network, read_config, stamp
from pipelines.errors import BaseError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.drawing.images import Size
    from pipelines.generation import ControlUse

_WANTED = "a ControlNet's folder in diffusers' layout (config.json and a .safetensors file)"


@dataclass(frozen=True, eq=False)
class Control:
    """One ControlNet and what it sees.

    pixels: (1, 3, H, W) in [0, 1]. begin, end: shares of the steps between which it acts.
    """

    model: Any = field(repr=False)
    pixels: torch.Tensor
    weight: float
    begin: float
    end: float

    def acts(self, index: int, count: int) -> bool:
        """Whether it acts at a step. Source: `control_guidance_start` and `_end` of diffusers' pipelines."""
        return self.weight != 0 and not (index / count < self.begin or (index + 1) / count > self.end)


@dataclass(frozen=True, eq=False)
class Controls:
    """Several ControlNets at once: what they say to the UNet's layers is added up.

    guided: whether the UNet is asked for the negative prompts too.
    Source: Zhang et al. 2023, https://arxiv.org/abs/2302.05543; the sum: diffusers' MultiControlNetModel.
    """

    controls: tuple[Control, ...]
    guided: bool

    def __call__(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        arguments: Mapping[str, Any],
        place: tuple[int, int],
    ) -> dict[str, Any]:
        """Return the UNet's residuals of a step (see `Steering`)."""
        down: list[torch.Tensor] = []
        middle: torch.Tensor | None = None
        added = arguments.get("added_cond_kwargs", {})
        for control in self.controls:
            if not control.acts(*place):
                continue
            below, mid = control.model(
                inputs,
                timestep,
                encoder_hidden_states=arguments["encoder_hidden_states"],
                controlnet_cond=control.pixels.to(inputs.dtype).expand(len(inputs), -1, -1, -1),
                conditioning_scale=control.weight,
                added_cond_kwargs={name: value for name, value in added.items() if name != "image_embeds"},
                return_dict=False,
            )
            found = [*below, mid]
            if control.model.config.global_pool_conditions and self.guided:
                found = [_positive_only(one) for one in found]  # as ControlNet Shuffle was trained
            down = [one + more for one, more in zip(down, found, strict=False)] if down else found[:-1]
            middle = found[-1] if middle is None else middle + found[-1]
        if middle is None:
            return {}
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def _positive_only(residual: torch.Tensor) -> torch.Tensor:
    """Return (2B, …) residuals with those of the negative prompts, the first B, at 0."""
    import torch

    _, positive = residual.chunk(2)
    return torch.cat([torch.zeros_like(positive), positive])


def load_controls(base: Base, uses: Sequence[ControlUse]) -> list[Any]:
    """Return the ControlNets that are named, in order; the last drawing's are kept.

    Raises: BaseError for a folder that holds none, or one that doesn't fit the base.
    """
    folders = [Path(use.ref).expanduser() for use in uses]
    for folder, use in zip(folders, uses, strict=True):
        _check(base, read_config(folder, _name(use.ref), _WANTED), use.ref)
    keys = [stamp(folder) for folder in folders]
    wanted: dict[Hashable, Callable[[], Any]] = {
        key: partial(_load, base, folder, use.ref)
        for key, folder, use in zip(keys, folders, uses, strict=True)
    }
    loaded = keep(base, "controls", wanted)
    return [loaded[key] for key in keys]


def make_controls(
    uses: Sequence[ControlUse], models: Sequence[Any], pictures: Sequence[Image], size: Size, guided: bool
) -> tuple[Controls | None, list[str]]:
    """Return what steers a pass of (height, width) pixels, and what was done to its pictures.

    pictures: as they were handed in, or the part of them that is drawn.
    """
    notes: list[str] = []
    made = []
    for number, (use, model, picture) in enumerate(zip(uses, models, pictures, strict=True), 1):
        what = f"picture {number} of the controls"
        rgb, said = plain(picture, what)
        shown, resized = fitted(rgb, size, what)
        notes += [*said, *resized]
        pixels = to_pixels(shown).to(model.device)
        made.append(Control(model, pixels, use.weight, use.begin, use.end))
    return (Controls(tuple(made), guided) if made else None), notes


def _name(ref: str) -> str:
    return f"ControlNet {ref!r}"


def _load(base: Base, folder: Path, ref: str) -> Any:
    from diffusers import ControlNetModel

    return load_network(base, ControlNetModel, folder, _name(ref), whole=True)


def _check(base: Base, config: Mapping[str, Any], ref: str) -> None:
    """Raise BaseError unless a ControlNet's config fits the base's UNet.

    What a ControlNet copies from its UNet decides: the text's width, the layers, the pictures' sizes.
    """
    if config.get("_class_name") != "ControlNetModel":
        raise BaseError(
            f"{_name(ref)} is a {config.get('_class_name')}, expected a ControlNetModel; give {_WANTED}"
        )
    unet = base.unet.config
    for field_name, default in (
        ("cross_attention_dim", 1280),
        ("block_out_channels", (320, 640, 1280, 1280)),
        ("layers_per_block", 2),
        ("addition_embed_type", None),
        ("down_block_types", None),
    ):
        found, wanted = _listed(config.get(field_name, default)), _listed(unet.get(field_name))
        if found != wanted and not (field_name == "down_block_types" and found is None):
            raise BaseError(
                f"{_name(ref)} has {field_name} {found}, the base {base.family.label} has {wanted}; "
                f"choose a ControlNet for {base.family.label}"
            )
    latent = base.latent_channels
    if config.get("in_channels", 4) != latent:
        raise BaseError(
            f"{_name(ref)} takes {config.get('in_channels', 4)} latent channels, the base has {latent}; "
            f"choose a ControlNet for {base.family.label}"
        )
    steps = 2 ** (len(config.get("conditioning_embedding_out_channels") or (0,) * 4) - 1)
    if steps != base.vae_scale_factor or config.get("conditioning_channels", 3) != 3:
        raise BaseError(
            f"{_name(ref)} sees {config.get('conditioning_channels', 3)} channels at 1/{steps} of the size, "
            f"expected 3 at 1/{base.vae_scale_factor}; choose one for {base.family.label}"
        )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
