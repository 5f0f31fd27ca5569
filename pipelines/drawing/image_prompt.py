"""Image prompts: an IP-Adapter lets the UNet attend to a picture beside the text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.drawing.clip_pixels import clip_pixels
from pipelines.drawing.images import plain
from pipelines.drawing.networks import keep, load_network, read_config, stamp
from pipelines.errors import BaseError
from pipelines.formats.container import read_header

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.generation import ImagePromptUse

_ENCODERS = ("image_encoder", "../image_encoder", "../models/image_encoder")
_WANTED = "the folder of the CLIP image encoder that it was trained with (config.json, a .safetensors file)"


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """An IP-Adapter made for a base, not yet on it.

    processors: of the UNet's cross-attention layers, by diffusers' names. projection: from the encoder's
    numbers to tokens. width: of those numbers. layered: whether it hears the encoder's last layer but one,
    token by token, and not its one embedding.
    """

    processors: dict[str, Any] = field(repr=False)
    projection: Any = field(repr=False)
    width: int
    layered: bool


@contextmanager
def image_prompted(
    base: Base, use: ImagePromptUse | None, picture: Image | None
) -> Iterator[torch.Tensor | None]:
    """Let the UNet attend to a picture while the context lasts; it is as it was after it, whatever happens.

    Yields: (2, 1, D) or (2, 1, L, D), what `added_cond_kwargs["image_embeds"]` needs for a negative and a
    positive prompt; None where there is no image prompt.
    Raises: BaseError for an IP-Adapter or an image encoder that can't be had or doesn't fit.
    Source: Ye et al. 2023, https://arxiv.org/abs/2308.06721.
    """
    if use is None or picture is None:
        yield None
        return
    file = Path(use.ref).expanduser()
    if not file.is_file():
        raise BaseError(f"{_name(use)}: no such file; give an IP-Adapter's .safetensors file")
    prompt = keep(base, "image prompt", {stamp(file): lambda: _load(base, file, use)})[stamp(file)]
    seen = _seen(base, prompt, use, file, picture)
    unet: Any = base.unet
    before = unet.attn_processors, unet.encoder_hid_proj, unet.config.encoder_hid_dim_type
    for processor in prompt.processors.values():
        processor.scale = [use.weight]
    try:
        unet.set_attn_processor({**before[0], **prompt.processors})
        unet.encoder_hid_proj = prompt.projection
        unet.config.encoder_hid_dim_type = "ip_image_proj"
        yield seen
    finally:
        unet.encoder_hid_proj = before[1]  # first: a projection of the plus kind has attention of its own
        unet.set_attn_processor(dict(before[0]))
        unet.config.encoder_hid_dim_type = before[2]


def _name(use: ImagePromptUse) -> str:
    return f"IP-Adapter {use.ref!r}"


def _load(base: Base, file: Path, use: ImagePromptUse) -> ImagePrompt:
    """Read an IP-Adapter's file and make its parts for the base."""
    from diffusers.models.attention_processor import AttnProcessor2_0
    from diffusers.models.embeddings import MultiIPAdapterImageProjection

    tensors = _read(file, use)
    projection, layers = tensors["image_proj"], tensors["ip_adapter"]
    _check(base, projection, layers, use)
    unet: Any = base.unet
    before = unet.attn_processors
    try:
        # diffusers makes anew the processors of self-attention too, without arguments; they aren't used.
        unet.set_attn_processor(AttnProcessor2_0())
        made = unet._convert_ip_adapter_attn_to_diffusers([tensors], low_cpu_mem_usage=False)
        image = unet._convert_ip_adapter_image_proj_to_diffusers(projection, low_cpu_mem_usage=False)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BaseError(f"{_name(use)} doesn't fit {base.family.label}: {reason}; choose another") from error
    finally:
        unet.set_attn_processor(dict(before))
    processors = {name: processor for name, processor in made.items() if name.endswith("attn2.processor")}
    for module in (*processors.values(), image):
        module.to(base.device, base.dtype).requires_grad_(False)
    first = next(
        projection[key] for key in ("proj.weight", "proj_in.weight", "proj.0.weight") if key in projection
    )
    return ImagePrompt(
        processors=processors,
        projection=MultiIPAdapterImageProjection([image]).eval(),
        width=first.shape[1],
        layered="proj.weight" not in projection,
    )


def _read(file: Path, use: ImagePromptUse) -> dict[str, dict[str, torch.Tensor]]:
    """Return an IP-Adapter's tensors by its two parts. Raises: BaseError for any other file."""
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        raise BaseError(f"{_name(use)} isn't a .safetensors file, and pickle weights are never opened; "
                        f"take the file of that ending from its repository")  # fmt: skip
    try:
        read_header(file, BaseError)  # its limits: safetensors' own reader has none
    except BaseError as error:
        raise BaseError(f"{_name(use)} can't be read: {error}") from None
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            for key in opened.keys():  # noqa: SIM118 (it is no mapping)
                part, _, rest = key.partition(".")
                if part in parts:
                    parts[part][rest] = opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise BaseError(f"{_name(use)} can't be read: {str(error)[:160]}; fetch it again") from None
    if not all(parts.values()):
        raise BaseError(f"{_name(use)} holds no image_proj and ip_adapter tensors; give an IP-Adapter's file")
    return parts


def _check(
    base: Base, projection: dict[str, torch.Tensor], layers: dict[str, torch.Tensor], use: ImagePromptUse
) -> None:
    """Raise BaseError unless an IP-Adapter's layers are those of the base's cross-attention."""
    if "norm.weight" in projection and "proj.weight" not in projection and "latents" not in projection:
        raise BaseError(f"{_name(use)} is a FaceID one, which needs a face recogniser; choose another kind")
    if "perceiver_resampler.proj_in.weight" in projection:
        raise BaseError(f"{_name(use)} is a FaceID one, which needs a face recogniser; choose another kind")
    unet: Any = base.unet
    texts = [module.to_k for name, module in unet.named_modules() if name.endswith("attn2")]
    wanted = sorted((layer.out_features, layer.in_features) for layer in texts)
    found = sorted(tuple(value.shape) for key, value in layers.items() if key.endswith("to_k_ip.weight"))
    if found != wanted:
        widths = {shape[1] for shape in found}
        raise BaseError(
            f"{_name(use)} has {len(found)} layers for text {sorted(widths)} wide, the base's UNet has "
            f"{len(wanted)}, {unet.config.cross_attention_dim} wide; choose one for {base.family.label}"
        )


def _seen(base: Base, prompt: ImagePrompt, use: ImagePromptUse, file: Path, picture: Image) -> torch.Tensor:
    """Encode a picture; the last one's numbers are kept, the encoder isn't."""
    from pipelines.generation import PictureUse

    if use.encoder is not None:
        folder = Path(use.encoder).expanduser()
    else:
        found = [file.parent / name for name in _ENCODERS if (file.parent / name).is_dir()]
        if not found:
            raise BaseError(f"{_name(use)} needs its image encoder, and there is no image_encoder/ folder "
                            f"beside it or above; give {_WANTED}")  # fmt: skip
        folder = found[0].resolve()
    what = f"image encoder {str(folder)!r}"
    config = read_config(folder, what, _WANTED)
    rgb, _ = plain(picture, "the image prompt")
    key = (stamp(folder), stamp(file), PictureUse.of(rgb).sha256)
    made = keep(
        base, "image prompt's picture", {key: lambda: _encode(base, prompt, folder, what, config, rgb)}
    )
    seen: torch.Tensor = made[key]
    return seen


def _encode(
    base: Base, prompt: ImagePrompt, folder: Path, what: str, config: dict[str, Any], picture: Image
) -> torch.Tensor:
    """Return what an image encoder says of nothing and of a picture.

    Source: `encode_image` of diffusers' StableDiffusionPipeline: nothing is zeros, of the embedding or,
    where the layer before is heard, of the pixels.
    """
    import torch
    from transformers import CLIPVisionModelWithProjection

    vision = config.get("vision_config") if isinstance(config.get("vision_config"), dict) else config
    assert vision is not None
    width = vision.get("hidden_size") if prompt.layered else config.get("projection_dim", 512)
    if width != prompt.width:
        raise BaseError(f"{what} gives {width} numbers, the IP-Adapter hears {prompt.width}; give {_WANTED}")
    encoder = load_network(base, CLIPVisionModelWithProjection, folder, what)
    pixels = clip_pixels(picture, int(encoder.config.image_size)).to(base.device, base.dtype)
    if prompt.layered:
        both = torch.cat([torch.zeros_like(pixels), pixels])
        hidden: torch.Tensor = encoder(both, output_hidden_states=True).hidden_states[-2]  # (2, L, D)
        return hidden[:, None]
    embedding: torch.Tensor = encoder(pixels).image_embeds  # (1, D)
    return torch.cat([torch.zeros_like(embedding), embedding])[:, None]
