"""What a written base says about itself: ModelSpec's fields, and Pigment's record of its configs.

Source: https://github.com/Stability-AI/ModelSpec (1.0.0). One deviation: no `modelspec.date`, so that the
same model gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.bases.configs import CONFIGS, OPEN_CLIP_PAD
from pipelines.bases.record import RECORD, Record
from pipelines.bases.source import Source

HASHED = ("modelspec.hash_sha256", "sshs_model_hash")
"""Fields that hold the SHA-256 of the tensors' bytes."""
_KEPT = ("author", "license", "description", "usage_hint", "tags")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_LOCAL = ("_name_or_path", "_commit_hash")
"""Fields of configs that may name folders of the machine they were saved on."""


def metadata_of(source: Source, title: str, merged_from: Iterable[str]) -> dict[str, str]:
    """Return the metadata of a base in one file, without its hashes.

    title: for people. merged_from: what was folded in, by name.
    """
    scheduler = source.configs["scheduler"]
    merged = [*merged_from]
    stated = {
        **kept_metadata(source),
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture(source),
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.prediction_type": "v" if source.prediction_type == "v_prediction" else "epsilon",
        "modelspec.resolution": "{0}x{0}".format(resolution(source)),
        "modelspec.hash_sha256": "0x",
        RECORD: record_of(source).as_text(),
    }
    if merged:
        stated["modelspec.merged_from"] = ", ".join([base_title(source), *merged])
    if scheduler.get("rescale_betas_zero_snr"):
        stated["ss_zero_terminal_snr"] = "True"
    return stated


def kept_metadata(source: Source) -> dict[str, str]:
    """What a source's file says of its author and licence, which holds for what is made of it too."""
    found = metadata_in(source)
    return {f"modelspec.{name}": found[f"modelspec.{name}"] for name in _KEPT if f"modelspec.{name}" in found}


def metadata_in(source: Source) -> Mapping[str, str]:
    """The metadata of a source's file; of a folder, of its UNet's first file."""
    return next(iter(source.state("unet").values())).file.header.metadata


def base_title(source: Source) -> str:
    """What a source is called: the title in its file, or its file's or folder's name."""
    name = source.path.stem if source.is_file else source.path.name
    return metadata_in(source).get("modelspec.title") or ("pocket" if source.ref == "pocket" else name)


def architecture(source: Source) -> str:
    """Return `modelspec.architecture`: the family's, with what its published variants are called."""
    names = source.family.base_architectures
    variant = "inpainting" if inpainting(source) else str(source.prediction_type)
    return names.get(variant) or next(iter(names.values()))


def inpainting(source: Source) -> bool:
    """Whether a source's UNet takes a mask and a masked picture beside the latents."""
    return int(source.configs["unet"]["in_channels"]) != int(source.configs["vae"]["latent_channels"])


def resolution(source: Source) -> int:
    """Native side of a picture in pixels."""
    steps = len(source.configs["vae"]["block_out_channels"]) - 1
    return int(source.configs["unet"]["sample_size"]) * 2**steps


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without what is about the machine that it was saved on."""
    return {key: value for key, value in config.items() if key not in _LOCAL}


def clean_index(source: Source) -> dict[str, Any]:
    """Return `model_index.json` with the parts that are written, and none of the others."""
    index = {}
    for key, value in clean_config(source.index).items():
        if isinstance(value, list):
            value = value if key in source.family.parts else [None, None]
        index[key] = value
    if "requires_safety_checker" in index:
        index["requires_safety_checker"] = False
    return index


def record_of(source: Source) -> Record:
    """Return what a file must carry so that the model can be read back from it.

    A tokenizer is in it only where it isn't the one that ships for the family.
    """
    configs = {part: clean_config(config) for part, config in source.configs.items()}
    tokenizers = {}
    for row in source.family.text_encoders:
        texts = tokenizer_texts(source.tokenizers[row.tokenizer])
        if not _is_shipped(texts, OPEN_CLIP_PAD if row.file_spelling == "open_clip" else None):
            tokenizers[row.tokenizer] = _smallest(texts)
    return Record(index=clean_index(source), configs=configs, tokenizers=tokenizers)


def tokenizer_texts(where: Path | Mapping[str, str]) -> dict[str, str]:
    """Return the texts of a tokenizer's files by name."""
    if not isinstance(where, Path):
        return dict(where)
    found = {name: where / name for name in _TOKENIZER_FILES}
    return {name: path.read_text(encoding="utf-8") for name, path in found.items() if path.is_file()}


def _is_shipped(texts: Mapping[str, str], pad: str | None) -> bool:
    """Whether a tokenizer makes the tokens that the shipped one makes, and fills up with the same.

    pad: the token that the family's fills prompts up with; None: the end token.
    """
    folder = CONFIGS / "tokenizer"
    ours = {name: (folder / name).read_text(encoding="utf-8") for name in ("vocab.json", "merges.txt")}
    length = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
    theirs = json.loads(texts.get("tokenizer_config.json", "{}"))
    filled = theirs.get("pad_token", "<|endoftext|>")
    filled = filled.get("content") if isinstance(filled, dict) else filled
    return (
        _vocabulary(texts) == _vocabulary(ours)
        and theirs.get("model_max_length") == length
        and filled == (pad or "<|endoftext|>")
    )


def _vocabulary(texts: Mapping[str, str]) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """A tokenizer's words and merges, from either of the two forms that it is saved in."""
    if "vocab.json" in texts and "merges.txt" in texts:
        lines = [
            line for line in texts["merges.txt"].splitlines() if line and not line.startswith("#version")
        ]
        return json.loads(texts["vocab.json"]), [tuple(line.split()) for line in lines]
    model = json.loads(texts.get("tokenizer.json", "{}")).get("model", {})
    merges = [tuple(one.split()) if isinstance(one, str) else tuple(one) for one in model.get("merges", ())]
    return dict(model.get("vocab", {})), merges


def _smallest(texts: Mapping[str, str]) -> dict[str, str]:
    """The files that are enough to load a tokenizer, as short as JSON can be."""
    dropped = ("vocab.json", "merges.txt") if "tokenizer.json" in texts else ()
    return {name: _short(name, text) for name, text in texts.items() if name not in dropped}


def _short(name: str, text: str) -> str:
    if not name.endswith(".json"):
        return text
    return json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
