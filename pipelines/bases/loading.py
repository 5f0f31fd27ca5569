"""From a source to modules: made without weights, then filled tensor by tensor, on the device at once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.bases.reading import fill
from pipelines.bases.source import Source, open_source
from pipelines.errors import BaseError
from pipelines.families import Family


def load_networks(
    source: Source, devices: Mapping[str, torch.device], dtypes: Mapping[str, torch.dtype]
) -> dict[str, nn.Module]:
    """Return every network of a source by part, in evaluation mode and without gradients.

    devices, dtypes: where each part's weights go, and in which precision.
    Raises: BaseError for configs that nothing can be built from and weights that don't fit them.
    """
    made: dict[str, nn.Module] = {}
    for part in source.networks:
        try:
            model = empty_network(source.family, part, source.configs[part])
        except Exception as error:  # whatever a library makes of a config
            raise BaseError(f"base {source.ref!r} can't be loaded: {part}: {first_line(error)}; "
                            "fetch it again") from error  # fmt: skip
        fill(model, source.state(part), devices[part], dtypes[part], f"base {source.ref!r}: {part}")
        made[part] = model.eval().requires_grad_(False)
    return made


def check_fit(source: Source) -> None:
    """Hold a source's tensors against the networks of its configs; no number is read.

    Raises: BaseError, as loading would, for what lacks, is too much or of another shape.
    """
    from pipelines.bases.libraries import quiet

    nowhere = torch.device("meta")
    with quiet():
        parts: dict[str, Any] = {**load_tokenizers(source.tokenizers, source.ref)}
        parts |= load_networks(
            source, dict.fromkeys(source.networks, nowhere), dict.fromkeys(source.networks, torch.float32)
        )
        rows = source.family.text_encoders
        match_tokenizers(
            {row.component: (parts[row.component], parts[row.tokenizer]) for row in rows}, source.ref
        )


def empty_network(family: Family, part: str, config: Mapping[str, Any]) -> nn.Module:
    """Make a part's module from its config, without weights. Raises: what the libraries raise."""
    import transformers
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers.initialization import no_init_weights

    with init_empty_weights(include_buffers=False), no_init_weights():
        if part == "unet":
            return UNet2DConditionModel.from_config(dict(config))
        if part == "vae":
            return AutoencoderKL.from_config(dict(config))
        row = next(row for row in family.text_encoders if row.component == part)
        model: nn.Module = getattr(transformers, row.model_class)(
            transformers.CLIPTextConfig.from_dict(dict(config))
        )
        return model


def load_tokenizers(tokenizers: Mapping[str, Path | Mapping[str, str]], ref: str) -> dict[str, Any]:
    """Return tokenizers by name, of folders or of the texts of their files.

    Raises: BaseError for one that can't be read, naming the base `ref`.
    """
    from transformers import CLIPTokenizer

    made = {}
    for name, where in tokenizers.items():
        try:
            if isinstance(where, Path):
                made[name] = CLIPTokenizer.from_pretrained(where, local_files_only=True)
                continue
            with tempfile.TemporaryDirectory() as folder:
                for file, text in where.items():
                    (Path(folder) / file).write_text(text, encoding="utf-8")
                made[name] = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise BaseError(
                f"base {ref!r} can't be loaded: {name}: {first_line(error)}; fetch it again"
            ) from error
    return made


def match_tokenizers(encoders: Mapping[str, tuple[Any, Any]], ref: str) -> None:
    """Hold tokenizers against their text encoders; a longer one, as those without a config are, is shortened.

    Then encoders are told which id ends a prompt (see `mark_ends`).

    encoders: by component, the module and its tokenizer.
    Raises: BaseError for a tokenizer without words, and for words that the encoder hasn't.
    """
    for component, (encoder, tokenizer) in encoders.items():
        ids, words = tokenizer.get_vocab().values(), encoder.config.vocab_size
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        length = tokenizer.model_max_length
        long = isinstance(length, int | float) and length >= len(ends)
        if len(ids) <= len(set(ends)) or None in ends or not long:
            raise BaseError(
                f"base {ref!r} has a tokenizer of {len(ids)} words and length {str(length)[:40]} "
                f"for {component}, which no prompt can be read with; fetch it again"
            )
        if max(ids) >= words:
            raise BaseError(
                f"base {ref!r} has a tokenizer of words up to {max(ids)}, {component} has {words}; "
                "fetch it again"
            )
        tokenizer.model_max_length = int(min(length, encoder.config.max_position_embeddings))
    mark_ends(encoders)


def mark_ends(encoders: Mapping[str, tuple[Any, Any]]) -> None:
    """Tell text encoders which id ends a prompt, where an older config says 2.

    transformers then takes a prompt's highest id for its end, which a learned word's would be.
    encoders: by component, the module and its tokenizer.
    Source: https://github.com/huggingface/transformers/pull/24773.
    """
    for encoder, tokenizer in encoders.values():
        text_model = getattr(encoder, "text_model", encoder)
        if text_model.eos_token_id == 2 and tokenizer.eos_token_id is not None:
            text_model.eos_token_id = tokenizer.eos_token_id


def make_scheduler_of(source: Source) -> Any:
    """Return the scheduler that a source's config describes. Raises: BaseError for an unknown one."""
    import diffusers

    config = dict(source.configs["scheduler"])
    name = config.get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    if kind is None:
        raise BaseError(f"base {source.ref!r} can't be loaded: unknown scheduler {name!r}; fetch it again")
    try:
        return kind.from_config(config)
    except Exception as error:
        raise BaseError(
            f"base {source.ref!r} can't be loaded: scheduler: {first_line(error)}; fetch it again"
        ) from error


def settled(source: Source, unet: nn.Module, width: int, device: torch.device, dtype: torch.dtype) -> Source:
    """Return a source that says what its UNet predicts, asking the UNet where the files don't say.

    width: of the text that cross-attention sees.
    """
    if source.prediction_type is not None:
        return source
    from pipelines.bases.recognise import probe_prediction

    unet_config, channels = source.configs["unet"], int(source.configs["vae"]["latent_channels"])

    def call(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        beside = int(unet_config["in_channels"]) - channels  # of an inpainting UNet: all is to be drawn
        mask = torch.zeros(len(latents), beside, *latents.shape[2:])
        mask[:, :1] = 1.0
        inputs = torch.cat([latents, mask], dim=1).to(device, dtype)
        text = torch.zeros(len(latents), 77, width, device=device, dtype=dtype)
        out: torch.Tensor = unet(inputs, timesteps.to(device), text, return_dict=False)[0]
        return out

    side = int(unet_config["sample_size"]) // 2
    told = probe_prediction(
        call, make_scheduler_of(source).alphas_cumprod, (1, channels, side, side),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    # Configs go by the prediction type too, so the file is looked at again with it.
    again = open_source(source.path, vae=source.vae_path, prediction_type=told, half=dtype != torch.float32)
    return replace(again, ref=source.ref, notes=(*again.notes, f"it predicts {told}, as its answers show"))


def first_line(error: BaseException) -> str:
    """What an error of a library says, short."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
