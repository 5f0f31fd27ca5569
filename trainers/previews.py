"""Pictures of the same prompts and seeds while an adapter learns."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.base import Base
from pipelines.files import make_folder, write_atomic
from pipelines.generate import GenerationConfig, generate_prompts
from trainers.config import TrainConfig
from trainers.prior import drawn_at_once
from trainers.run_folder import PREVIEWS


def preview_prompts(config: TrainConfig) -> list[str]:
    """Return what previews show: the config's prompts, else the prompt of the pictures and the class's."""
    given = list(config.run.preview_prompts)
    return given or [prompt for prompt in (config.data.instance_prompt, config.data.class_prompt) if prompt]


def preview_settings(base: Base, config: TrainConfig) -> GenerationConfig:
    """Return what all previews of a run share. Raises: ConfigError for what the base can't draw."""
    run, side = config.run, config.data.resolution or base.resolution
    return GenerationConfig(
        prompt="",
        negative_prompt=run.preview_negative,
        num_inference_steps=run.preview_steps,
        guidance_scale=run.preview_guidance,
        sampler=run.preview_sampler,
        width=run.preview_width or side,
        height=run.preview_height or side,
    )


def draw_previews(base: Base, config: TrainConfig, folder: Path, step: int) -> dict[str, Any]:
    """Draw each preview prompt with each seed, adapter as it is; return {"files", "prompts", "seeds"}.

    Seed after seed within a prompt; all three lists are of one length. Files are named below the run
    folder, with "/" between. No random generator of the run moves, global ones included, and what is in
    training mode (dropout) is out of it meanwhile.
    """
    seeds = config.run.preview_seeds or (config.run.seed % 2**53,)
    asked = [(prompt, seed) for prompt in preview_prompts(config) for seed in seeds]
    settings = preview_settings(base, config)
    assert settings.width is not None and settings.height is not None
    at_once = drawn_at_once(settings.height, settings.width)
    with chance_kept(base.device), at_rest(base):
        pictures = generate_prompts(
            base, [prompt for prompt, _ in asked], [seed for _, seed in asked], settings, batch_size=at_once
        )
    make_folder(folder / PREVIEWS)
    files = []
    for index, picture in enumerate(pictures):
        name = f"{PREVIEWS}/step-{step:06d}-{index:02d}.png"
        encoded = io.BytesIO()
        picture.save(encoded, format="PNG")
        write_atomic(folder / name, [encoded.getvalue()])
        files.append(name)
    return {"files": files, "prompts": [prompt for prompt, _ in asked], "seeds": [seed for _, seed in asked]}


@contextmanager
def at_rest(base: Base) -> Iterator[None]:
    """Put every module of the base into evaluation mode for a while, so that nothing drops out."""
    parts = [*base.text_encoders().values(), base.unet, base.vae]
    training = [module for part in parts for module in part.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def chance_kept(device: torch.device) -> Iterator[None]:
    """Give the global random generators back as they were: torch's, the device's, numpy's and Python's."""
    ours, numpys = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
