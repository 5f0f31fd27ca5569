"""Pictures of the same prompts and seeds while an adapter learns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pipelines.base import Base
from pipelines.files import write_atomic
from pipelines.generate import GenerationConfig, generate_prompts
from trainers.config import TrainConfig
from trainers.run_folder import PREVIEWS


def preview_prompts(config: TrainConfig) -> list[str]:
    """Return what previews show: the config's prompts, else the prompt of the pictures and the class's."""
    given = list(config.run.preview_prompts)
    return given or [prompt for prompt in (config.data.instance_prompt, config.data.class_prompt) if prompt]


def draw_previews(base: Base, config: TrainConfig, folder: Path, step: int) -> dict[str, Any]:
    """Draw the preview prompts with the adapter as it is; return {"files", "prompts", "seeds"}.

    Files are named below the run folder, with "/" between. The run's own random generators aren't used.
    """
    prompts = preview_prompts(config)
    seeds = [config.run.seed % 2**53] * len(prompts)
    settings = GenerationConfig(prompt="", num_inference_steps=16)
    pictures = generate_prompts(base, prompts, seeds, settings)
    (folder / PREVIEWS).mkdir(exist_ok=True)
    files = []
    for index, picture in enumerate(pictures):
        name = f"{PREVIEWS}/step-{step:06d}-{index:02d}.png"
        encoded = io.BytesIO()
        picture.save(encoded, format="PNG")
        write_atomic(folder / name, [encoded.getvalue()])
        files.append(name)
    return {"files": files, "prompts": prompts, "seeds": seeds}
