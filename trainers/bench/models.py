"""Models and adapters to measure: the embedded base, a folder, or random weights in published shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base, load_base, quiet
from pipelines.bases.configs import configs_of, write_configs
from pipelines.bases.layout import wholes
from pipelines.bases.loading import empty_network, load_tokenizers
from pipelines.bases.reading import ALIGNMENT
from pipelines.bases.streaming import Planned, write_stream
from pipelines.device import choose_device
from pipelines.errors import ConfigError
from pipelines.families import FAMILIES, TEXT_TARGETS, UNET_TARGETS
from pipelines.formats.container import read_header

RANDOM = ("sd15", "sdxl")
"""Models made of random weights: speed doesn't depend on what they are."""

SMALLER = 8
"""How much narrower small models are."""


@dataclass(frozen=True)
class Subject:
    """A model to be measured. name: its key among the figures. rank: of its adapters."""

    name: str
    source: str
    small: bool
    rank: int
    device: str | None = None
    dtype: str | None = None

    def load(self) -> Base:
        """Load or make it; two calls give equal weights."""
        if self.source in RANDOM:
            return random_base(self.source, small=self.small, device=self.device, dtype=self.dtype)
        return load_base(self.source, device=self.device, dtype=self.dtype)


def subject(source: str, *, small: bool, rank: int | None, device: str | None) -> Subject:
    """Return what `--model source` means.

    Raises: ConfigError for a full-size random model without a CUDA device.
    """
    if source in RANDOM:
        if not small and choose_device(device).device.type != "cuda":
            raise ConfigError(
                f"model {source!r} in full size needs a CUDA device; add --small for an eighth of its width"
            )
        return Subject(f"{source}-small" if small else source, source, small, rank or 16, device)
    name = "pocket" if source == "pocket" else Path(source).name
    return Subject(name, source, False, rank or 8, device)


def random_base(
    family: str, *, small: bool = False, device: str | None = None, dtype: str | None = None
) -> Base:
    """Make a model in the published shapes on the device; dtype: None is its usual one (bf16 on CUDA).

    small: an eighth of the width and of the picture's side, at the same depth and number of layers. device:
    "meta" makes it without memory, to be counted and not to be computed with.
    """
    import transformers
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    row, published = FAMILIES[family], configs_of(family)
    chosen = choose_device("cpu" if device == "meta" else device, dtype)
    where = torch.device("meta") if device == "meta" else chosen.device
    configs = {part: dict(config) for part, config in published.configs.items()}
    if small:
        _narrow(configs, SMALLER)
    ref = f"{family}-random"
    parts: dict[str, Any] = load_tokenizers(published.tokenizers, ref)
    default = torch.get_default_dtype()
    torch.set_default_dtype(chosen.dtype)
    try:
        with quiet(), torch.random.fork_rng(), where:
            torch.manual_seed(0)
            parts["unet"] = UNet2DConditionModel.from_config(configs["unet"])
            parts["vae"] = AutoencoderKL.from_config(configs["vae"])
            for encoder in row.text_encoders:
                config = transformers.CLIPTextConfig.from_dict(configs[encoder.component])
                parts[encoder.component] = getattr(transformers, encoder.model_class)(config)
    finally:
        torch.set_default_dtype(default)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    parts["scheduler"] = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    return Base(ref=ref, path=Path(ref), family=row, device=where, dtype=chosen.dtype, **parts)


def random_file(family: str, path: Path, *, divisor: int = 1) -> Path:
    """Write a model of random weights in the published shapes as one file in the original layout, fp16.

    divisor: how much narrower it is made than the published one. Beside it, in a folder of its stem, its
    configs: returns that folder. The weights are made tensor by tensor, so nothing of the model's size is
    held. Other tools' files lie at any multiple of 8 bytes, which is slower to load, so this one does too.
    """
    row, published = FAMILIES[family], configs_of(family)
    configs = {part: dict(config) for part, config in published.configs.items()}
    if divisor > 1:
        _narrow(configs, divisor)
    with quiet():
        networks = {part: empty_network(row, part, configs[part]) for part in (*row.components, "vae")}
    shapes = {
        part: {name: tuple(value.shape) for name, value in network.named_parameters()}
        for part, network in networks.items()
    }
    made = wholes(shapes, row)
    empty = {
        part: {name: torch.empty(shape, device="meta") for name, shape in those.items()}
        for part, those in shapes.items()
    }
    sides = {
        name: tuple(whole.make(lambda part, key: empty[part][key]).shape) for name, whole in made.items()
    }
    numbers = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))  # over and over again

    def make(name: str) -> torch.Tensor:
        shape = sides[name]
        if len(shape) == 1:
            return torch.ones(shape).half() if name.endswith("weight") else torch.zeros(shape).half()
        scaled = (numbers * (0.5 / math.prod(shape[1:]) ** 0.5)).half()
        count = math.prod(shape)
        return scaled.repeat(-(-count // len(scaled)))[:count].reshape(shape)

    planned = {name: Planned(torch.float16, shape) for name, shape in sides.items()}
    metadata = {"modelspec.prediction_type": "epsilon"}
    write_stream(path, planned, make, metadata, alignment=8)
    if read_header(path).data_start % ALIGNMENT == 0:
        path.unlink()
        write_stream(path, planned, make, {**metadata, "format": "pt"}, alignment=8)
    write_configs(replace(published, configs=configs), path.with_suffix(""))
    return path.with_suffix("")


def _narrow(configs: dict[str, dict[str, Any]], divisor: int) -> None:
    """Make every part of a model an integer factor narrower."""
    unet, clips = configs["unet"], [c for part, c in configs.items() if part.startswith("text_encoder")]
    for config in (unet, configs["vae"]):
        config["block_out_channels"] = [width // divisor for width in config["block_out_channels"]]
        config["norm_num_groups"] = 8
    unet["sample_size"] //= divisor
    unet["cross_attention_dim"] //= divisor
    heads = unet["attention_head_dim"]
    unet["attention_head_dim"] = heads if isinstance(heads, list) else heads // 2
    for clip in clips:
        clip["num_attention_heads"] //= 4
        for side in ("hidden_size", "intermediate_size", "projection_dim"):
            clip[side] //= divisor
    if unet.get("projection_class_embeddings_input_dim"):
        ids = 6 * unet["addition_time_embed_dim"]
        unet["projection_class_embeddings_input_dim"] = clips[-1]["projection_dim"] + ids


def targets(base: Base, unet: str = "attention+ff") -> list[str]:
    """The linear layers that the adapters are on: a named set of the UNet's, and of the text encoders' what
    training takes by default."""
    ends = {"unet": UNET_TARGETS[unet]}
    text = TEXT_TARGETS[base.family.text_targets]
    layers = base.modules()
    return [
        name
        for name, layer in layers.items()
        if isinstance(layer, torch.nn.Linear)
        and name.endswith(tuple(f".{end}" for end in ends.get(name.split(".", 1)[0], text)))
    ]


def adapters(base: Base, modules: Sequence[str], count: int, rank: int) -> dict[str, Adapter]:
    """`count` random LoRAs on `modules`, alpha = rank, ΔW about a tenth of the weight."""
    layers = base.modules()
    made = {}
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        factors = {}
        for module in modules:
            out, inner = layers[module].weight.shape
            down = torch.randn((rank, inner), generator=generator) / inner**0.5
            up = torch.randn((out, rank), generator=generator) * (0.06 / rank**0.5)
            factors[module] = LowRank(down=down, up=up, alpha=float(rank))
        made[f"a{index}"] = Adapter(name=f"a{index}", factors=factors, family=base.family.id)
    return made
