"""A base model: the embedded one, or a folder in diffusers' layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipelines.conditioning import Conditioning, Holder, Words
from pipelines.device import Device, choose_device
from pipelines.errors import BaseError, ConfigError
from pipelines.families import FAMILIES, Family, family_of_pipeline
from pipelines.files import file_sha256

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ASSETS = Path(__file__).resolve().parent.parent / "assets"

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pickle", ".pkl")


@dataclass(eq=False, kw_only=True)
class Base:
    """A loaded base model; its modules are shared by everything that is given it.

    ref: what was asked for ("pocket" or a path, as text). path: its folder. zero_empty: whether an
    empty negative prompt means zeros and not the encoded empty text (`force_zeros_for_empty_prompt`).
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
    holder: Holder | None = field(default=None, repr=False)
    words: Words | None = field(default=None, repr=False)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the names and contents of the parts' JSON and safetensors files.

        Read from the folder at first use, so it names the base whatever adapters are mixed in.
        """
        digest = hashlib.sha256()
        for part in self.family.parts:
            for file in sorted((self.path / part).rglob("*")):
                if file.suffix in (".json", ".safetensors", ".txt"):
                    name = file.relative_to(self.path).as_posix()
                    digest.update(f"{name}\0{file_sha256(file)}\n".encode())
        return digest.hexdigest()

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
        """Decode (B, C, h, w) latents, scaled as the UNet sees them, to (B, 3, H, W) in [-1, 1]."""
        with torch.no_grad():
            decoded = self.vae.decode(latents.to(self.vae.dtype) / self.scaling_factor).sample
            return decoded.clamp(-1.0, 1.0)

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


def pipeline_extras(pipeline_class: type, zero_empty: bool) -> dict[str, Any]:
    """Return what a pipeline class wants beside the parts: no safety checker, no watermark, the zeroing."""
    import inspect

    wanted = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
        "force_zeros_for_empty_prompt": zero_empty,
        "add_watermarker": False,
    }
    taken = inspect.signature(pipeline_class).parameters
    return {name: value for name, value in wanted.items() if name in taken}


def load_base(
    ref: str | Path = "pocket", *, device: str | None = None, dtype: str | torch.dtype | None = None
) -> Base:
    """Load a base model, in evaluation mode and without gradients.

    ref: "pocket" for the embedded base, or a folder in diffusers' layout. device, dtype: see
    `choose_device`; on a CPU the precision is fp32.

    Raises: BaseError that says what was found; ConfigError for an unknown device or precision.
    """
    path = ASSETS / "pocket" if str(ref) == "pocket" else Path(ref).expanduser()
    family, index = _recognise(path, str(ref))
    chosen = choose_device(device, dtype)
    from safetensors import SafetensorError

    broken = (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError)
    try:
        with quiet():
            parts = _load_parts(path, family, chosen)
    except broken as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BaseError(f"base {str(ref)!r} can't be loaded: {reason}; fetch its folder again") from error
    return Base(
        ref=str(ref),
        path=path,
        family=family,
        device=chosen.device,
        dtype=chosen.dtype,
        zero_empty=bool(index.get("force_zeros_for_empty_prompt", False)),
        **parts,
    )


def _recognise(path: Path, ref: str) -> tuple[Family, dict[str, Any]]:
    """Tell the family of a pipeline folder from its index and its UNet's config, or raise BaseError.

    Returns: the family's row, and what `model_index.json` says.
    """
    if path.suffix.lower() in _PICKLES:
        raise BaseError(
            f"base {ref!r} is a pickle file, which is never opened; convert it to a diffusers folder"
        )
    if path.is_file():
        raise BaseError(
            f"base {ref!r} is a file; expected a folder in diffusers' layout (with model_index.json)"
        )
    if not path.is_dir():
        raise BaseError(f"base {ref!r}: no such folder; give 'pocket' or a folder in diffusers' layout")
    index = _read_json(path / "model_index.json", ref)
    found = str(index.get("_class_name"))
    if found not in {name for row in FAMILIES.values() for name in (row.pipeline_class, row.inpaint_class)}:
        known = ", ".join(f"{row.pipeline_class} ({row.label})" for row in FAMILIES.values())
        raise BaseError(f"base {ref!r} is a {found}; supported: {known}")
    unet = _read_json(path / "unet" / "config.json", ref) if (path / "unet").is_dir() else {}
    family = family_of_pipeline(found, unet)
    if family is None:
        raise BaseError(f"base {ref!r} is a {found} whose UNet has use_linear_projection = "
                        f"{unet.get('use_linear_projection')}; no supported family is built so")  # fmt: skip
    for part in family.parts:
        if not (path / part).is_dir():
            raise BaseError(f"base {ref!r} has no {part}/ folder; fetch it again, whole")
    for part in (*family.components, "vae"):
        if not list((path / part).glob("*.safetensors")):
            raise BaseError(
                f"base {ref!r} has no .safetensors file in {part}/; pickle weights are never opened"
            )
    channels = unet.get("in_channels")
    latent = _read_json(path / "vae" / "config.json", ref).get("latent_channels")
    if not isinstance(latent, int) or channels not in (latent, 2 * latent + 1):
        raise BaseError(
            f"base {ref!r} has a UNet of {channels} input channels over {latent} latent channels; expected "
            f"{latent}, or {2 * latent + 1 if isinstance(latent, int) else 9} of an inpainting base"
        )
    return family, index


def _read_json(path: Path, ref: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaseError(
            f"base {ref!r} has no {path.name} in {path.parent.name}/; expected diffusers' layout"
        ) from None
    except (OSError, ValueError):
        raise BaseError(
            f"base {ref!r}: {path.parent.name}/{path.name} isn't readable JSON; fetch it again"
        ) from None
    if not isinstance(value, dict):
        raise BaseError(f"base {ref!r}: {path.parent.name}/{path.name} holds no settings; fetch it again")
    return value


def _load_parts(path: Path, family: Family, chosen: Device) -> dict[str, Any]:
    import diffusers
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTokenizer

    parts: dict[str, Any] = {"unet": _load_model(UNet2DConditionModel, path / "unet", chosen)}
    for row in family.text_encoders:
        kind = getattr(transformers, row.model_class)
        parts[row.component] = _load_model(kind, path / row.component, chosen)
        parts[row.tokenizer] = CLIPTokenizer.from_pretrained(path / row.tokenizer, local_files_only=True)
    parts["vae"] = _load_model(AutoencoderKL, path / "vae", chosen)
    name = json.loads((path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))[
        "_class_name"
    ]
    scheduler_class = getattr(diffusers, name, None)
    if not (isinstance(name, str) and name.endswith("Scheduler") and scheduler_class is not None):
        raise ValueError(f"unknown scheduler {name!r}")
    parts["scheduler"] = scheduler_class.from_pretrained(path / "scheduler", local_files_only=True)
    return parts


def _load_model(kind: Any, folder: Path, chosen: Device) -> Any:
    """Load one network from safetensors only, frozen and in evaluation mode.

    Raises: ValueError where the file lacks weights, which the libraries would fill with random numbers.
    """
    model, report = kind.from_pretrained(
        folder, dtype=chosen.dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    lacking = [key for key in report["missing_keys"] if not key.endswith("position_ids")]
    if lacking:
        raise ValueError(f"{folder.name}/ lacks {len(lacking)} weights, for instance {sorted(lacking)[0]}")
    return model.to(chosen.device).eval().requires_grad_(False)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the libraries' progress bars and notes while something is loaded; errors still show."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (level, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()
