"""One way to train on the embedded base, whole: taught, judged, turned into plain LoRA; a process's work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.base import ASSETS
from pipelines.errors import AdapterError, ConfigError, StudioError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.adapter import Adapter
    from pipelines.base import Base
    from trainers.config import TrainConfig
    from trainers.evidence.similarity import Judge

FIGURES = (
    "trainable_parameters",
    "seconds",
    "peak_bytes",
    "held_out_loss",
    "base_held_out_loss",
    "image_similarity",
    "prompt_similarity",
    "file_bytes",
    "lora_export_error",
)
"""What is measured of each method, in this order: seconds are those of its steps."""

DRAWING_STEPS = 16
_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Example:
    """A subject from assets/examples, in a folder to be taught from.

    folder: its pictures and then the held-out ones, `held_out` of them, each with its caption.
    instance_prompt, class_prompt: with and without the trigger. scenes: endings that no taught picture shows.
    """

    folder: Path
    held_out: int
    trigger: str
    instance_prompt: str
    class_prompt: str
    scenes: tuple[str, ...]

    def references(self) -> list[Image]:
        """The held-out pictures."""
        from PIL import Image

        files = sorted(self.folder.glob("*.png"))[-self.held_out :]
        return [Image.open(file).convert("RGB") for file in files]


def lay_out(name: str, folder: Path, examples: Path = ASSETS / "examples") -> Example:
    """Copy a subject's pictures and captions into `folder`, those to be held out last by name.

    Raises: ConfigError for a name that isn't a subject of the examples.
    """
    sets = json.loads((examples / "examples.json").read_text(encoding="utf-8"))["sets"]
    subjects = {row["id"]: row for row in sets if row["kind"] == "subject"}
    if name not in subjects:
        raise ConfigError(f"there is no example subject {name!r}{nearest(name, subjects)}")
    row = subjects[name]
    folder.mkdir(parents=True)
    for part, files in (("a-taught", row["pictures"]), ("b-held-out", row["held_out"])):
        for file in files:
            picture = examples / name / file
            for source in (picture, picture.with_suffix(".txt")):
                shutil.copyfile(source, folder / f"{part}-{source.name}")
    return Example(
        folder=folder,
        held_out=len(row["held_out"]),
        trigger=row["trigger"],
        instance_prompt=row["instance_prompt"],
        class_prompt=row["class_prompt"],
        scenes=tuple(row["scenes"]),
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a process is to do: teach `method` (a key of TUNINGS), or look at the base for None.

    runs: folder of all runs. steps: to learn. rank: of methods that have one. samples: pictures per scene.
    """

    method: str | None
    example: Example
    runs: Path
    base: str
    steps: int
    rank: int
    batch_size: int
    samples: int
    seed: int
    device: str | None

    def config(self) -> TrainConfig:
        """The training's config. Raises: ConfigError."""
        from pipelines.methods import TUNINGS
        from trainers.config import preset_config

        assert self.method is not None
        row = TUNINGS[self.method]
        size = {"rank": self.rank, "alpha": float(self.rank)}
        return preset_config(
            "sketch",
            "subject",
            method=self.method,
            **{name: value for name, value in size.items() if name in row.uses},
            instance_images=self.example.folder,
            held_out=self.example.held_out,
            trigger=self.example.trigger,
            instance_prompt=self.example.instance_prompt,
            class_prompt=self.example.class_prompt,
            captions="sidecar",
            output=self.runs / self.method,
            cache=self.runs / "cache",
            base=self.base,
            steps=self.steps,
            batch_size=self.batch_size,
            prior_batch_size=1,
            num_class_images=16,
            checkpoint_every=self.steps,
            evaluate_every=self.steps,
            preview_every=0,
            seed=self.seed,
            threads=1,
            device=self.device,
        )


def work(task: Task) -> tuple[dict[str, Any], list[Image]]:
    """Do a task; its figures, and one picture per sample of the first scene.

    A training that fails gives {"failed": why} and no pictures.
    """
    import torch

    from pipelines.base import quiet

    if task.device in (None, "cpu"):
        torch.set_num_threads(1)
    try:
        with quiet():
            return _look_at_the_base(task) if task.method is None else _teach(task)
    except StudioError as error:
        return {"failed": str(error)}, []
    except Exception as error:  # One method's fault may not cost the others' figures.
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}, []


def _teach(task: Task) -> tuple[dict[str, Any], list[Image]]:
    import torch

    from pipelines.formats import read_adapter
    from pipelines.mixer import Mixer
    from trainers.loop import train
    from trainers.memory import Peak

    config, losses, done, seconds = task.config(), list[float](), dict[str, Any](), 0.0
    with _counted() as count:
        peak = Peak(torch.device(task.device or "cpu"))
        for event in train(config):
            if event.kind == "held_out":
                losses.append(event.data["loss"])
            if event.kind == "step":
                seconds += event.data["seconds"]
            if event.kind == "done":
                done = event.data
        peak_bytes = peak.bytes()
    file = config.run.output / done["adapter"]
    adapter, base = read_adapter(file), _base(task)
    error = _lora_error(adapter, base, task.rank)
    with Mixer(base) as mixer:
        mixer.add("taught", adapter)
        mixer.set({"taught": 1.0})
        similarities, shown = _judge(base, task, task.example.instance_prompt)
    values = (count[0], seconds, peak_bytes, losses[-1], losses[0],
              *similarities, file.stat().st_size, error)  # fmt: skip
    return dict(zip(FIGURES, values, strict=True)), shown


def _look_at_the_base(task: Task) -> tuple[dict[str, Any], list[Image]]:
    """The base's own similarities, asked without the trigger, which it doesn't know."""
    similarities, shown = _judge(_base(task), task, task.example.class_prompt)
    return dict(zip(("image_similarity", "prompt_similarity"), similarities, strict=True)), shown


def _base(task: Task) -> Base:
    from pipelines.base import load_base

    return load_base(task.base, device=task.device)


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Count the numbers that the training's optimizer is given, [0] of what is yielded."""
    from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

    found = [0]

    def count(optimizer: Optimizer, *_: Any) -> None:
        found[0] = sum(p.numel() for group in optimizer.param_groups for p in group["params"])

    handle = register_optimizer_step_post_hook(count)
    try:
        yield found
    finally:
        handle.remove()


def _judge(base: Base, task: Task, prompt: str) -> tuple[tuple[float, float], list[Image]]:
    """How like the held-out pictures, and how like the plain prompts, the pictures of new scenes are.

    Mean cosines, [-1, 1]; the same scenes, seeds and judge for every method.
    """
    from pipelines.generate import GenerationConfig, generate_prompts
    from trainers.evidence.similarity import Judge

    judge: Judge = Judge.load()
    scenes = [scene for scene in task.example.scenes for _ in range(task.samples)]
    asked = [f"{prompt} {scene}" for scene in scenes]
    plain = [f"{task.example.class_prompt} {scene}" for scene in scenes]
    seeds = [task.seed + _SEED + index for index in range(len(scenes))]
    settings = GenerationConfig(prompt="", num_inference_steps=DRAWING_STEPS)
    drawn: Sequence[Image] = generate_prompts(base, asked, seeds, settings)
    alike = judge.image_similarity(drawn, task.example.references())
    return (alike, judge.prompt_similarity(drawn, plain)), list(drawn[: task.samples])


def _lora_error(adapter: Adapter, base: Base, rank: int) -> float | None:
    """Relative error of the adapter as plain LoRA of its own rank, else `rank`; None where there is none.

    Biases, which plain LoRA can't hold, are left out of it.
    """
    from pipelines.tools import as_lora

    try:
        return as_lora(adapter, adapter.rank or rank, base, allow_left_out=True)[1].error
    except AdapterError:
        return None
