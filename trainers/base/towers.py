"""The image tower and the text projection that measure similarity, trained contrastively on the corpus.

Source: CLIP (Radford et al. 2021): symmetric cross-entropy over a batch. The text encoder is the
base's own and stays frozen; only its projection is learned, beside the whole image tower.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from trainers.base.corpus import collect
from trainers.base.denoiser import load_in_fp32
from trainers.base.latents import to_batch

DIMENSIONS = 128


@torch.no_grad()
def pooled(text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """(N, width): the frozen text encoder's pooled outputs."""
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return torch.cat([text(part).pooler_output for part in tokens.split(128)])


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy of unit vectors (B, D); pair i belongs to pair i."""
    logits = scale.exp() * image @ text.T
    target = torch.arange(len(image))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def train(
    base: Path,
    work: Path,
    minutes: float,
    *,
    seed: int = 0,
    pairs: int = 24_000,
    batch: int = 128,
    threads: int = 2,
) -> None:
    """Write `base/image_encoder` and `base/text_projection.safetensors`; goes on where they exist."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    text = CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    size = json.loads((base / "vae" / "config.json").read_text())["sample_size"]
    if (base / "image_encoder").exists():
        vision = CLIPVisionModelWithProjection.from_pretrained(
            base / "image_encoder", torch_dtype=torch.float32
        )
    else:
        vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=192,
                intermediate_size=768,
                projection_dim=DIMENSIONS,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=size,
                patch_size=size // 4,
            )
        )
    data = collect(pairs, seed + 17, size)
    features = pooled(text, tokenizer, data.captions)
    projection = nn.Linear(features.shape[1], DIMENSIONS, bias=False)
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    parameters = [*vision.parameters(), *projection.parameters(), scale]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    began, step, curve = time.monotonic(), 0, []
    while (progress := (time.monotonic() - began) / 60 / minutes) < 1:
        decay = max(0.0, (progress - 0.3) / 0.7)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * decay))
        index = torch.randint(len(features), (batch,))
        pixels = to_batch([data.pictures[i].astype(np.float32) / 255 for i in index])
        image = functional.normalize(vision(pixels).image_embeds, dim=-1)
        loss = contrastive_loss(image, functional.normalize(projection(features[index]), dim=-1), scale)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            scale.clamp_(max=math.log(100))
        step += 1
        if step % 20 == 0:
            curve.append(
                {"step": step, "loss": round(loss.item(), 4), "minutes": round(progress * minutes, 2)}
            )
    vision.half().save_pretrained(base / "image_encoder")
    load_in_fp32(base / "image_encoder")
    tensors = {
        "text_projection.weight": projection.weight.detach().half(),
        "logit_scale": scale.detach().half(),
    }
    save_file(tensors, base / "text_projection.safetensors")
    work.mkdir(parents=True, exist_ok=True)
    (work / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))


def load_projection(base: Path) -> torch.Tensor:
    """(D, width) fp32."""
    return load_file(base / "text_projection.safetensors")["text_projection.weight"].float()
