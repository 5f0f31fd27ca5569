"""A base model: the embedded one, or a folder in diffusers' layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipelines.bases.libraries import load_libraries as load_libraries
from pipelines.bases.libraries import pipeline_extras as pipeline_extras
from pipelines.bases.libraries import quiet as quiet
from pipelines.conditioning import Conditioning, Holder, Words
from pipelines.device import Device, Placement, choose_device
from pipelines.errors import BaseError, ConfigError
from pipelines.families import Family

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from pipelines.bases.hub import OnProgress
    from pipelines.bases.source import Source

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(eq=False, kw_only=True)
class Base:
    """A loaded base model; its modules are shared by everything that is given it.

    ref: what was asked for ("pocket", a path or a hub id, as text). path: its folder or file. source: where
    its parts are read from, None for one that was made without files. setup: where and how it was put at
    loading. zero_empty: whether an empty negative
    prompt means zeros and not the encoded empty text (`force_zeros_for_empty_prompt`).
    holder: the mixer whose adapters are written into the weights now; None while they are the base's
    own. words: the learned words of those adapters, or None.
    """

    ref: str
    path: Path
    family: Family
    unet: UNet2DConditionModel = field(repr=False)
    text_encoder: CLIPTextModel = field(repr=False)
    tokenizer: CLIPTokenizer = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    scheduler: SchedulerMixin = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    text_encoder_2: CLIPTextModelWithProjection | None = field(default=None, repr=False)
    tokenizer_2: CLIPTokenizer | None = field(default=None, repr=False)
    zero_empty: bool = False
    source: Source | None = field(default=None, repr=False)
    setup: Device | None = field(default=None, repr=False)
    holder: Holder | None = field(default=None, repr=False)
    words: Words | None = field(default=None, repr=False)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the base's file, or over the parts of its folder (see `Source.sha256`).

        Read at first use, so it names the base whatever adapters are mixed in.
        """
        assert self.source is not None, "a base made without files has no hash"
        return self.source.sha256

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent position along one side."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    @property
    def resolution(self) -> int:
        """Native side of a picture in pixels."""
        return int(self.unet.config["sample_size"]) * self.vae_scale_factor

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.vae.config["latent_channels"])

    @property
    def in_channels(self) -> int:
        """Channels that the UNet takes: the latents', and an inpainting UNet's mask and masked picture."""
        return int(self.unet.config["in_channels"])

    @property
    def inpainting(self) -> bool:
        """Whether the UNet takes a mask and the latents of the masked picture beside the latents."""
        return self.in_channels == 2 * self.latent_channels + 1

    @property
    def scaling_factor(self) -> float:
        """What encoded latents are multiplied by, so that their spread is near 1."""
        return float(self.vae.config["scaling_factor"])

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon" or "v_prediction", as the scheduler's config says."""
        return str(self.scheduler.config["prediction_type"])

    def component(self, name: str) -> nn.Module:
        """Return the module behind "unet" or a text encoder's name."""
        module = getattr(self, name)
        assert isinstance(module, nn.Module)
        return module

    def modules(self) -> dict[str, nn.Linear | nn.Conv2d]:
        """Return every linear and convolution layer by its canonical name, UNet first.

        The names are `unet.<diffusers path>` and `text_encoder.<path>`, without `text_model.`.
        """
        return {
            f"{component}.{path.removeprefix('text_model.')}": module
            for component in self.family.components
            for path, module in self.component(component).named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }

    def weighted(self) -> dict[str, nn.Module]:
        """Return every layer with a `weight` that adapters may change: `modules()` and the norms."""
        kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
        return {
            f"{component}.{path.removeprefix('text_model.')}": module
            for component in self.family.components
            for path, module in self.component(component).named_modules()
            if isinstance(module, kinds) and getattr(module, "weight", None) is not None
        }

    def attentions(self) -> dict[str, nn.Module]:
        """Return the text encoders' self-attentions, which some adapters sit on whole, by canonical name."""
        return {
            f"{component}.{path.removeprefix('text_model.')}": module
            for component, encoder in self.text_encoders().items()
            for path, module in encoder.named_modules()
            if path.endswith(".self_attn")
        }

    def text_encoders(self) -> dict[str, Any]:
        """Return the text encoders by component name."""
        names = (encoder.component for encoder in self.family.text_encoders)
        return {name: self.component(name) for name in names}

    def condition(self, prompts: Sequence[str], *, negative: bool = False) -> Conditioning:
        """Encode B prompts for the UNet, literally; longer ones than the tokenizers' length are cut there.

        What people write for pictures (weights, long prompts) goes through `pipelines.prompts.encode`.
        negative: they are negative prompts, of which empty ones may mean zeros (see `zero_empty`).
        Gradients flow where the caller has them on.
        """
        hidden, pooled = [], None
        for row in self.family.text_encoders:
            tokens = self.tokenizer_of(row.component)(
                [self.expand(prompt, row.component) for prompt in prompts],
                padding="max_length",
                max_length=getattr(self, row.tokenizer).model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            found, pooled = self.encode_tokens(row.component, tokens.input_ids)
            hidden.append(found)
        told = Conditioning(torch.cat(hidden, dim=-1), pooled if self.family.pooled else None)
        return self.zeroed(told, prompts) if negative else told

    def zeroed(self, told: Conditioning, negatives: Sequence[str]) -> Conditioning:
        """Put zeros in the place of empty negative prompts, where the base wants them so (`zero_empty`)."""
        if not self.zero_empty:
            return told
        keep = torch.tensor([bool(prompt) for prompt in negatives], device=self.device)
        pooled = None if told.pooled is None else told.pooled * keep[:, None]
        return Conditioning(told.hidden * keep[:, None, None], pooled)

    def tokenizer_of(self, component: str) -> Any:
        """Return a text encoder's tokenizer, with the learned words in use."""
        if self.words is not None:
            return self.words.tokenizer(component)
        return getattr(self, next(e.tokenizer for e in self.family.text_encoders if e.component == component))

    def expand(self, prompt: str, component: str) -> str:
        """Put the further vectors of learned words in use behind them; the prompt itself where none are."""
        return prompt if self.words is None else self.words.expand(prompt, component)

    def encode_tokens(
        self, component: str, ids: torch.Tensor, clip_skip: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a text encoder over token ids (B, L).

        clip_skip: the layer to take, counted from the last, 1, as A1111 counts; None is the family's own
        (2 for SDXL). Families that take the last layer by themselves see every layer through the final norm.
        Returns: hidden states (B, L, D), and the projection (B, P) where the encoder has one.
        Raises: ConfigError for a layer that isn't there.
        """
        encoder: Any = self.component(component)
        own = -self.family.hidden_layer
        layer = own if clip_skip is None else clip_skip
        if not 1 <= layer <= encoder.config.num_hidden_layers:
            raise ConfigError(
                f"CLIP skip is {layer}, {component} of base {self.ref!r} has "
                f"{encoder.config.num_hidden_layers} layers; choose 1 to {encoder.config.num_hidden_layers}"
            )
        plain = own == layer == 1
        out = encoder(ids.to(self.device), output_hidden_states=not plain)
        pooled = getattr(out, "text_embeds", None)
        if plain:
            return out.last_hidden_state, pooled
        hidden = out.hidden_states[-layer]
        if own == 1:
            hidden = getattr(encoder, "text_model", encoder).final_layer_norm(hidden)
        return hidden, pooled

    def encode_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Encode B prompts: (B, L, D), `condition` without what is pooled."""
        return self.condition(prompts).hidden

    def encode_images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode pictures to the mean and standard deviation of their latents.

        pixels: (B, 3, H, W) in [-1, 1]. Returns: two (B, C, h, w), both times the scaling factor:
        a sample is mean + std · noise.
        """
        with torch.no_grad():
            latents = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
            return latents.mean * self.scaling_factor, latents.std * self.scaling_factor

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode (B, C, h, w) latents, scaled as the UNet sees them, to (B, 3, H, W) in [-1, 1].

        Raises: BaseError where the base, or what is mixed into it, came to what is no number.
        """
        with torch.no_grad():
            decoded: torch.Tensor = self.vae.decode(latents.to(self.vae.dtype) / self.scaling_factor).sample
        if not bool(decoded.isfinite().all()):
            raise BaseError(
                f"the picture isn't made of numbers (NaN): base {self.ref!r} is damaged, or too large for "
                f"{str(self.dtype)[6:]}, or an adapter is; try --precision bf16 or fp32, or fetch it again"
            )
        return decoded.clamp(-1.0, 1.0)

    def again(self) -> Base:
        """Load this base a second time, from the same files, on the same device: without what is mixed in."""
        assert self.source is not None, "a base made without files can't be loaded again"
        return load_base(self.source.path, device=str(self.device), dtype=self.dtype, **self.source.asked)

    def pipeline(self) -> DiffusionPipeline:
        """Return a diffusers pipeline over these very modules: what it changes, changes here."""
        import diffusers

        with quiet():
            parts = {part: getattr(self, part) for part in self.family.parts}
            parts["scheduler"] = type(self.scheduler).from_config(self.scheduler.config)
            name = self.family.inpaint_class if self.inpainting else self.family.pipeline_class
            pipeline_class = getattr(diffusers, name)
            pipeline = pipeline_class(**parts, **pipeline_extras(pipeline_class, self.zero_empty))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def load_base(
    ref: str | Path = "pocket",
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    vae: str | Path | None = None,
    config: str | Path | None = None,
    prediction_type: str | None = None,
    placement: Placement | None = None,
    on_progress: OnProgress | None = None,
) -> Base:
    """Load a base model, in evaluation mode and without gradients.

    ref: "pocket" for the embedded base, a folder in diffusers' layout, one .safetensors file in the original
    layout, or a hub id. device, dtype, placement: see `choose_device`; on a CPU the precision is fp32. vae,
    config, prediction_type, on_progress: see `open_source`.

    Raises: BaseError that says what was found; ConfigError for an unknown device or precision.
    """
    load_libraries()
    from pipelines.bases.loading import (
        load_networks,
        load_tokenizers,
        make_scheduler_of,
        match_tokenizers,
        settled,
    )
    from pipelines.bases.source import open_source
    from pipelines.preparing import prepare

    half = choose_device(device, dtype).dtype != torch.float32
    source = open_source(
        ref, vae=vae, config=config, prediction_type=prediction_type, half=half, on_progress=on_progress
    )
    overflows = source.family.vae_overflows and bool(source.configs["vae"].get("force_upcast", True))
    chosen = choose_device(device, dtype, placement, source.parameters, vae_overflows=overflows)
    homes = {part: chosen.landing(part) for part in source.networks}
    dtypes = dict.fromkeys(source.networks, chosen.dtype) | {"vae": chosen.vae_dtype}
    with quiet():
        parts: dict[str, Any] = {**load_tokenizers(source.tokenizers, source.ref)}
        parts |= load_networks(source, homes, dtypes)
        width = int(source.configs["unet"].get("cross_attention_dim") or 0)
        source = settled(source, parts["unet"], width, homes["unet"], chosen.dtype)
        parts["scheduler"] = make_scheduler_of(source)
        rows = source.family.text_encoders
        encoders = {row.component: (parts[row.component], parts[row.tokenizer]) for row in rows}
        match_tokenizers(encoders, source.ref)
    base = Base(
        ref=str(ref),
        path=source.path,
        family=source.family,
        device=chosen.device,
        dtype=chosen.dtype,
        zero_empty=bool(source.index.get("force_zeros_for_empty_prompt", False)),
        source=source,
        setup=chosen,
        **parts,
    )
    prepare(base, chosen)
    return base
