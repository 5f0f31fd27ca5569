"""How good the embedded base is: figures on compositions that its training never showed.

The classifier that judges pictures is trained on real renderings of the corpus alone, never on
generated ones, so it knows nothing of the model's habits.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from pipelines.base import Base, load_base
from pipelines.generate import GenerationConfig, generate, generate_prompts
from pipelines.grids import labelled_grid
from trainers.base.backgrounds import BACKGROUNDS, SCENES
from trainers.base.corpus import compose, held_out_pair, stream
from trainers.base.latents import to_batch
from trainers.base.subjects import COLOURS, FIRST_BASE, SUBJECTS, Subject, with_article
from trainers.evidence.provenance import machine, versions
from trainers.evidence.similarity import Judge

NAMES = [s.name for s in SUBJECTS]
# Subjects of which some background is held out (the rule is a hash, so a few have none).
MEASURED = [s for s in SUBJECTS if any(held_out_pair(s, b) for b in BACKGROUNDS)]


@dataclass(frozen=True)
class Asked:
    """One prompt of the measurement with what its picture should show."""

    prompt: str
    subject: Subject
    background: str


def ask(count: int, seed: int) -> list[Asked]:
    """`count` held-out compositions: subjects in turn, two thirds on plain colours, one third in scenes."""
    rng = np.random.default_rng(seed)
    asked: list[Asked] = []
    while len(asked) < count:
        for index in rng.permutation(len(SUBJECTS)):
            subject = SUBJECTS[index]
            kind = list(COLOURS) if rng.random() < 2 / 3 else list(SCENES)
            free = [b for b in kind if held_out_pair(subject, b)]
            if not free or len(asked) == count:
                continue
            background = str(rng.choice(free))
            name, phrase = subject.name, SCENES[background][0] if background in SCENES else ""
            if subject.kind == "shape":
                name = f"{rng.choice([c for c in COLOURS if c != background])} {name}"
            phrase = phrase or f"on {with_article(background)} background"
            asked.append(
                Asked(f"a photo of {with_article(name, subject.plural)} {phrase}", subject, background)
            )
    return asked


class Classifier(nn.Module):
    """(B, 3, 64, 64) in [-1, 1] → logits of the subject (B, S) and of the background (B, K)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def block(a: int, b: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

        widths = (width, 2 * width, 4 * width, 6 * width)
        self.body = nn.Sequential(
            block(3, width, 2),
            *[block(a, b, 2) for a, b in pairwise(widths)],
            block(widths[-1], widths[-1], 1),
        )
        self.subject = nn.Linear(widths[-1], len(SUBJECTS))
        self.background = nn.Linear(widths[-1], len(BACKGROUNDS))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(pixels)
        return self.subject(features.amax((2, 3)) + features.mean((2, 3))), self.background(
            features.mean((2, 3))
        )


def soften(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur, noise and brightness at random, so that shapes and colours count, not edges."""
    out = pixels
    if torch.rand((), generator=generator) < 0.6:
        side = int(torch.randint(28, 56, (), generator=generator))
        out = functional.interpolate(out, side, mode="area")
        out = functional.interpolate(out, pixels.shape[-1], mode="bilinear")
    shift = 0.06 * torch.randn(len(out), 3, 1, 1, generator=generator)
    noise = 0.08 * torch.rand((), generator=generator)
    return (out + shift + noise * torch.randn(out.shape, generator=generator)).clamp(-1, 1)


def train_classifier(size: int, *, seed: int = 0, pictures: int = 24_000, epochs: int = 8) -> Classifier:
    """On `pictures` real renderings; held-out pairs are not among them."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    source = stream(seed + 31, size)
    data = np.empty((pictures, size, size, 3), np.uint8)
    subject, background = torch.empty(pictures, dtype=torch.long), torch.empty(pictures, dtype=torch.long)
    for i in range(pictures):
        example = next(source)
        data[i] = np.round(example.pixels * 255)
        subject[i], background[i] = NAMES.index(example.subject.name), BACKGROUNDS.index(example.background)
    model = Classifier().train()
    batch, total = 128, epochs * (pictures // 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=total, pct_start=0.15)
    for _ in range(epochs):
        for index in torch.randperm(pictures, generator=generator)[: pictures // batch * batch].split(batch):
            pixels = soften(to_batch([data[i].astype(np.float32) / 255 for i in index]), generator)
            subject_logits, background_logits = model(pixels)
            loss = functional.cross_entropy(subject_logits, subject[index], label_smoothing=0.05)
            loss = loss + functional.cross_entropy(background_logits, background[index], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval()


def classifier_for(size: int, file: Path | None) -> Classifier:
    """The classifier kept in `file` where it is there; else trained, and kept in `file` if one is named."""
    if file is not None and file.exists():
        model = Classifier()
        model.load_state_dict(load_file(file))
        return model.eval()
    model = train_classifier(size)
    if file is not None:
        save_file(model.state_dict(), file)
    return model


@torch.no_grad()
def judge(model: Classifier, pictures: list[Image.Image], asked: list[Asked]) -> dict[str, Any]:
    """Shares of first guesses that are right: subject, colour of the background, scene."""
    pixels = to_batch([np.asarray(p, np.float32) / 255 for p in pictures])
    logits = [model(part) for part in pixels.split(100)]
    subject = torch.cat([s for s, _ in logits]).argmax(1).tolist()
    background = torch.cat([b for _, b in logits]).argmax(1).tolist()
    right = [NAMES[s] == a.subject.name for s, a in zip(subject, asked, strict=True)]
    behind = [BACKGROUNDS[b] == a.background for b, a in zip(background, asked, strict=True)]

    def share(values: list[bool]) -> float:
        return round(statistics.mean(values), 4) if values else math.nan

    misses: dict[str, list[str]] = {}
    for s, a, ok in zip(subject, asked, right, strict=True):
        if not ok:
            misses.setdefault(a.subject.name, []).append(NAMES[s])
    return {
        "subject_top1": share(right),
        "subject_top1_new_subjects": share(
            [ok for ok, a in zip(right, asked, strict=True) if a.subject.name not in FIRST_BASE]
        ),
        "background_top1": share(
            [ok for ok, a in zip(behind, asked, strict=True) if a.background in COLOURS]
        ),
        "scene_top1": share([ok for ok, a in zip(behind, asked, strict=True) if a.background in SCENES]),
        "misses": misses,
    }


def renderings(asked: list[Asked], seed: int, size: int) -> list[Image.Image]:
    """Real pictures of the subjects asked for, on backgrounds held out for them."""
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray(np.round(compose(a.subject, rng, size, held_out=True).pixels * 255).astype(np.uint8))
        for a in asked
    ]


def classifier_accuracy(model: Classifier, seed: int, size: int, count: int = 600) -> dict[str, float]:
    """The classifier on real held-out compositions: what the figures of generated pictures can reach."""
    rng = np.random.default_rng(seed)
    examples = [compose(MEASURED[i % len(MEASURED)], rng, size, held_out=True) for i in range(count)]
    pictures = [Image.fromarray(np.round(e.pixels * 255).astype(np.uint8)) for e in examples]
    result = judge(model, pictures, [Asked(e.caption, e.subject, e.background) for e in examples])
    return {f"classifier_{k}": result[k] for k in ("subject_top1", "background_top1")}


def reconstruction_psnr(base: Base, pictures: list[Image.Image]) -> float:
    """Mean PSNR in dB of the autoencoder's round trip over 8-bit pictures."""
    values = []
    for start in range(0, len(pictures), 50):
        pixels = to_batch([np.asarray(p, np.float32) / 255 for p in pictures[start : start + 50]])
        mean, _ = base.encode_images(pixels)
        error = ((base.decode_latents(mean) - pixels) / 2).pow(2).mean((1, 2, 3))
        values += (-10 * error.log10()).tolist()
    return round(statistics.mean(values), 2)


def retrieval(judge_: Judge, seed: int, size: int, count: int = 100) -> float:
    """Share of `count` held-out pictures whose own caption is the nearest of all `count` captions."""
    rng = np.random.default_rng(seed)
    examples: dict[str, Image.Image] = {}
    while len(examples) < count:
        example = compose(MEASURED[rng.integers(len(MEASURED))], rng, size, held_out=True)
        examples.setdefault(example.caption, Image.fromarray(np.round(example.pixels * 255).astype(np.uint8)))
    scores = judge_.image_embeddings(list(examples.values())) @ judge_.text_embeddings(list(examples)).T
    return float((scores.argmax(1) == torch.arange(count)).float().mean())


def seconds_per_picture(base: Base, rounds: int = 5) -> float:
    """Median seconds of one 20-step picture with guidance, the threads as they are set."""
    config = GenerationConfig(prompt="a photo of a fox on a red background", num_inference_steps=20)
    generate(base, config)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        generate(base, config)
        times.append(time.perf_counter() - began)
    return round(statistics.median(times), 3)


def megabytes(folder: Path) -> float:
    """Size of the base's weights and configs, in 10⁶ bytes; a build's work folder isn't part of it."""
    files = [f for f in folder.glob("*/*") if f.parent.name != "work"] + list(folder.glob("*.safetensors"))
    return round(sum(f.stat().st_size for f in files if f.suffix in (".safetensors", ".json")) / 1e6, 2)


def sample_grid(base: Base, path: Path, guidance: float, seed: int = 1) -> None:
    """A grid of subjects × backgrounds that one can look at."""
    rng = np.random.default_rng(seed)
    columns = ["red", "light blue", "yellow", "purple", "snow", "grass", "stars", "beach", "table"]
    chosen = [s for s in SUBJECTS if s.kind != "shape"]
    rows = [chosen[i] for i in sorted(rng.choice(len(chosen), 10, replace=False))]
    phrases = [SCENES[c][0] if c in SCENES else f"on {with_article(c)} background" for c in columns]
    prompts = [f"a photo of {with_article(s.name, s.plural)} {p}" for s in rows for p in phrases]
    config = GenerationConfig(prompt="-", guidance_scale=guidance)
    pictures = generate_prompts(base, prompts, list(range(len(prompts))), config, batch_size=30)
    table = [pictures[i : i + len(columns)] for i in range(0, len(pictures), len(columns))]
    labelled_grid(table, [s.name for s in rows], columns).save(path)


def drawing(folder: Path, classifier_file: Path | None, guidance: float, seed: int) -> dict[str, Any]:
    """What 300 pictures of held-out compositions show, by the classifier; the autoencoder; a sample grid."""
    base = load_base(folder)
    size = base.resolution
    asked = ask(300, seed)
    classifier = classifier_for(size, classifier_file)
    config = GenerationConfig(prompt="-", guidance_scale=guidance)
    pictures = generate_prompts(base, [a.prompt for a in asked], list(range(300)), config, batch_size=30)
    sample_grid(base, folder / "samples.png", guidance)
    return {
        "vae_psnr_db": reconstruction_psnr(base, renderings(asked, seed + 1, size)),
        **judge(classifier, pictures, asked),
        **classifier_accuracy(classifier, seed + 2, size),
        "guidance_scale": guidance,
    }


def towers(folder: Path, seed: int) -> dict[str, Any]:
    """How well captions are found for pictures."""
    return {"retrieval_r1": retrieval(Judge.load(folder), seed + 3, load_base(folder).resolution)}


def speed(folder: Path) -> dict[str, Any]:
    """Seconds per picture on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return {"seconds_per_picture_2cores": seconds_per_picture(load_base(folder))}
    finally:
        torch.set_num_threads(threads)


PARTS = ("drawing", "towers", "speed")


def measure(
    folder: Path,
    *,
    command: str,
    only: Sequence[str] = PARTS,
    classifier_file: Path | None = None,
    guidance: float = 3.0,
    seed: int = 5,
) -> dict[str, Any]:
    """The figures of the base in `folder`, also written to its `quality.json`.

    only: parts measured anew; the others keep what the file says.
    """
    path = folder / "quality.json"
    figures: dict[str, Any] = (
        json.loads(path.read_text()) if path.exists() and set(only) != set(PARTS) else {}
    )
    if "drawing" in only:
        figures |= drawing(folder, classifier_file, guidance, seed)
    if "towers" in only:
        figures |= towers(folder, seed)
    if "speed" in only:
        figures |= speed(folder)
    history = json.loads((folder / "history.json").read_text())
    figures |= {
        "megabytes": megabytes(folder),
        "samples_seen": sum(step["samples"] for step in history),
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "command": command,
    }
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    return figures
