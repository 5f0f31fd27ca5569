"""Latents of the corpus, encoded once: what the denoiser trains on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from trainers.base.backgrounds import BACKGROUNDS
from trainers.base.corpus import stream
from trainers.base.subjects import SUBJECTS


@dataclass(frozen=True)
class Latents:
    """N corpus pictures as the UNet sees them.

    latents (N, C, h, w) fp16, already times `scaling_factor`; tokens (N, L) int64; subject (N,) and
    background (N,) int64, indices into `SUBJECTS` and `BACKGROUNDS`.
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    subject: torch.Tensor
    background: torch.Tensor


def to_batch(pixels: list[np.ndarray]) -> torch.Tensor:
    """Pictures (H, W, 3) in 0..1 → (B, 3, H, W) in [-1, 1], fp32."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous() * 2 - 1


@torch.no_grad()
def encode_corpus(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int, seed: int, batch: int = 32
) -> Latents:
    """`count` examples of `corpus.stream(seed)`, encoded (the posterior's mean)."""
    examples = stream(seed, vae.config.sample_size)
    subjects = {s.name: i for i, s in enumerate(SUBJECTS)}
    backgrounds = {name: i for i, name in enumerate(BACKGROUNDS)}
    parts, captions, subject, background = [], [], [], []
    for start in range(0, count, batch):
        group = [next(examples) for _ in range(min(batch, count - start))]
        mean = vae.encode(to_batch([e.pixels for e in group])).latent_dist.mean * vae.config.scaling_factor
        parts.append(mean.half())
        captions += [e.caption for e in group]
        subject += [subjects[e.subject.name] for e in group]
        background += [backgrounds[e.background] for e in group]
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return Latents(torch.cat(parts), tokens, torch.tensor(subject), torch.tensor(background))


def save(latents: Latents, path: Path) -> None:
    """Write one shard; the name is only there when the file is whole."""
    temporary = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in vars(latents).items()}, temporary)
    temporary.rename(path)


def load(folder: Path) -> Latents:
    """All shards of `folder` as one."""
    shards = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    return Latents(**{name: torch.cat([shard[name] for shard in shards]) for name in shards[0]})


def build_shard(vae_dir: str, tokenizer_dir: str, folder: str, index: int, count: int, seed: int) -> None:
    """One process' share of the cache, shard `index`; nothing is done where the shard exists."""
    path = Path(folder) / f"shard-{index:03d}.safetensors"
    if path.exists():
        return
    torch.set_num_threads(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(vae_dir, torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_dir)
    save(encode_corpus(vae, tokenizer, count, seed + index), path)
    (path.parent / "about.json").write_text(json.dumps({"per_shard": count, "seed": seed}))
