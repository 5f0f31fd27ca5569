"""What is drawn to be measured, and what its pictures are like."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.base import Base
from pipelines.files import make_folder, write_atomic
from pipelines.generate import GenerationConfig, generate_prompts
from pipelines.mixer import Mixer
from trainers.config import DataConfig, TrainConfig
from trainers.evidence.asking import fixed_prompts, plain, unrelated_prompts
from trainers.evidence.diversity import diversity, drift
from trainers.evidence.fidelity import image_similarity, prompt_similarity, structure_similarity
from trainers.evidence.judges import Judges
from trainers.evidence.memorisation import memorisation
from trainers.evidence.record import EVIDENCE, Memorisation, Seen
from trainers.evidence.references import References
from trainers.previews import at_rest, chance_kept, preview_settings
from trainers.prior import drawn_at_once

__all__ = [
    "TAUGHT", "Drawn", "References", "draw_and_judge", "fixed_prompts", "judge_preview", "plain",
    "unrelated_prompts",
]  # fmt: skip

TAUGHT = "taught"
"""Name of the adapter in the mix that is drawn with."""

STEPS, SAMPLER = 6, "dpmpp_2m"
"""What pictures are drawn in: on the embedded base they are hardly other ones than with 16 steps of DDIM."""

_SEED = 1000


@dataclass(frozen=True)
class Drawn:
    """seen: what the adapter draws. base: what the base draws of the same seeds, without the trigger.
    memorisation: whether the adapter's pictures are copies; None where there is nothing to compare with."""

    seen: Seen
    base: Seen
    memorisation: Memorisation | None


def draw_and_judge(
    base: Base,
    mixed: Mixer,
    config: TrainConfig,
    references: References,
    folder: Path,
    step: int,
    judges: Judges,
) -> Drawn:
    """Draw the fixed prompts with the adapter and without it, and unrelated ones, and judge the pictures.

    mixed: holds the adapter as `TAUGHT`; it is left at weight 1. folder: the run's, where
    evidence/drawn-00.png and evidence/base-00.png … are written. step: which one the adapter is of.
    No random generator moves. Raises: ConfigError for what the base can't draw.
    """
    told = fixed_prompts(config.data, config.evidence)
    prompts = [prompt for prompt in told for _ in range(config.evidence.samples)]
    seeds = [_SEED + index for index in range(len(prompts))]
    others = unrelated_prompts(config.data)
    asked = [plain(prompt, config.data) for prompt in prompts]
    own, count = [*seeds, *range(_SEED, _SEED + len(others))], len(prompts)
    try:
        mixed.set({TAUGHT: 0.0})
        before = _draw(base, config, [*asked, *others], own)
    finally:
        mixed.set({TAUGHT: 1.0})
    after = _draw(base, config, [*prompts, *others], own)
    seen = _judged(after[:count], asked, judges, references)
    moved, still = _unrelated(after[count:], before[count:], judges, references)
    files = _write(folder, "drawn", after[:count])
    about: dict[str, Any] = {"prompts": tuple(prompts), "seeds": tuple(seeds)}
    return Drawn(
        seen=Seen(step=step, files=files, **about, **seen, **moved),
        base=Seen(
            step=0, files=_write(folder, "base", before[:count]), prompts=tuple(asked), seeds=tuple(seeds),
            **_judged(before[:count], asked, judges, references), **still,
        ),
        memorisation=memorisation(after[:count], files, references, judges.likeness),
    )  # fmt: skip


def _unrelated(
    after: Sequence[Image.Image], before: Sequence[Image.Image], judges: Judges, references: References
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What pictures of unrelated prompts tell, with the adapter and by the base; nothing without a judge."""
    if judges.likeness is None:
        return {}, {}
    ours, theirs = (judges.likeness.image_embeddings(part) for part in (after, before))
    moved: dict[str, Any] = {"drift": round(drift(ours, theirs), 5)}
    still: dict[str, Any] = {}
    if references.taught:
        learned = references.compared(judges.likeness)
        moved["unrelated_similarity"] = round(image_similarity(ours, learned), 5)
        still["unrelated_similarity"] = round(image_similarity(theirs, learned), 5)
    return moved, still


def judge_preview(
    files: Sequence[Path],
    prompts: Sequence[str],
    judges: Judges,
    references: References,
    data: DataConfig | None = None,
) -> Seen:
    """Judge pictures that were drawn before, one prompt each.

    Likeness is that of pictures whose prompt has the trigger, where `data` tells it and there are any.
    Returns: what was measured, with the prompts; step, files and seeds are the caller's to fill in.
    """
    pictures = [Image.open(file).convert("RGB") for file in files]
    called: Sequence[int] = range(len(pictures))
    asked = list(prompts)
    if data is not None:
        trigger = data.trigger.casefold()
        called = [index for index, prompt in enumerate(prompts) if trigger in prompt.casefold()] or called
        asked = [plain(prompt, data) for prompt in prompts]
    return Seen(step=0, prompts=tuple(prompts), **_judged(pictures, asked, judges, references, called))


def _judged(
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    judges: Judges,
    references: References,
    called: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What judges say of pictures. called: indices of those that are to be like the references."""
    found: dict[str, float | None] = {}
    rows = list(range(len(pictures)) if called is None else called)
    if judges.likeness is not None and pictures:
        seen = judges.likeness.image_embeddings(pictures)
        if references.taught:
            found["image_similarity"] = image_similarity(seen[rows], references.compared(judges.likeness))
        found["prompt_similarity"] = prompt_similarity(seen, judges.likeness.text_embeddings(prompts))
        found["diversity"] = diversity(seen[rows], [prompts[row] for row in rows])
    if judges.structure is not None and pictures and references.taught:
        seen = judges.structure.image_embeddings([pictures[row] for row in rows])
        found["structure_similarity"] = structure_similarity(seen, references.compared(judges.structure))
    return {name: None if value is None else round(value, 5) for name, value in found.items()}


def _draw(base: Base, config: TrainConfig, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    settings = _settings(base, config)
    assert settings.width is not None and settings.height is not None
    at_once = drawn_at_once(settings.height, settings.width)
    with chance_kept(base.device), at_rest(base):
        return generate_prompts(base, prompts, seeds, settings, batch_size=at_once)


def _settings(base: Base, config: TrainConfig) -> GenerationConfig:
    """Size, guidance and negative prompt as previews have them, in few steps."""
    quick = {"num_inference_steps": STEPS, "sampler": SAMPLER}
    return preview_settings(base, config).model_copy(update=quick)


def _write(folder: Path, kind: str, pictures: Sequence[Image.Image]) -> tuple[str, ...]:
    """Write pictures into a run's folder; return their names below it, with "/" between."""
    make_folder(folder / EVIDENCE)
    names = []
    for index, picture in enumerate(pictures):
        encoded = io.BytesIO()
        picture.save(encoded, format="PNG")
        names.append(f"{EVIDENCE}/{kind}-{index:02d}.png")
        write_atomic(folder / names[-1], [encoded.getvalue()])
    return tuple(names)
