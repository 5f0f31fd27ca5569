"""Settings to pictures: one random generator per picture, its settings in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines.denoise import OnStep, Steering, Step, at_rest_after, denoise, initial_noise
from pipelines.drawing.agreement import check
from pipelines.drawing.control import load_controls, make_controls
from pipelines.drawing.hires import enlarged, hires_size
from pipelines.drawing.image_prompt import image_prompted
from pipelines.drawing.images import Size, drawing_size, to_images
from pipelines.drawing.masks import Canvas, make_canvas
from pipelines.drawing.plans import (
    Ground,
    hires_ground,
    hires_steps,
    make_plan,
    picture_ground,
    text_ground,
)
from pipelines.drawing.safety import NOTE, blackened, safety_checker
from pipelines.drawing.turns import Turn, make_turns
from pipelines.errors import ConfigError
from pipelines.generation import (
    AdapterUse,
    ControlUse,
    GenerationConfig,
    ImagePromptUse,
    Inputs,
    PictureUse,
    recorded,
)
from pipelines.picture import Picture, read_settings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base

__all__ = [
    "AdapterUse",
    "ControlUse",
    "GenerationConfig",
    "ImagePromptUse",
    "Inputs",
    "OnStep",
    "Picture",
    "PictureUse",
    "Step",
    "generate",
    "generate_prompts",
    "initial_noise",
    "make_plan",
    "read_settings",
]

_VERSION = 2


def generate(
    base: Base,
    config: GenerationConfig,
    *,
    inputs: Inputs | None = None,
    on_step: OnStep | None = None,
    on_picture: Callable[[Picture], object] | None = None,
) -> list[Picture]:
    """Draw `config.num_images` pictures with seeds seed, seed + 1, …

    `config.batch_size` of them are denoised at once; with 1 a seed gives the same bits whatever else is
    drawn. inputs: the pictures to draw from; those that `config` doesn't record yet are recorded. The
    adapters in `config` are a record: mixing them into the base is the caller's (see `Mixer`). on_step
    counts over all passes; when it returns False, the pictures already finished are returned. on_picture
    is handed each as soon as it is finished, so that what comes between loses only those that aren't.

    Raises: ConfigError for settings that the base can't draw, or pictures that don't go with them.
    """
    import torch

    inputs = inputs or Inputs()
    config = recorded(config, inputs)
    check(config)
    pictures: list[Picture] = []
    with torch.no_grad(), at_rest_after(base):
        flagged = safety_checker(base, config.safety_checker)
        turns = list(make_turns(base, config))
        with image_prompted(base, config.image_prompt, inputs.image_prompt) as seen:
            scene = _scene(base, config, inputs, seen)
            for index, turn in enumerate(turns):
                done = index * scene.steps
                latents = _draw(base, scene, turn, _Counter(on_step, done, len(turns) * scene.steps))
                if latents is None:
                    break
                for picture in _finished(base, scene, turn, latents, flagged):
                    pictures.append(picture)
                    if on_picture is not None:
                        on_picture(picture)
    return pictures


def generate_prompts(
    base: Base,
    prompts: Sequence[str],
    seeds: Sequence[int],
    config: GenerationConfig,
    *,
    batch_size: int = 8,
) -> list[Image]:
    """Draw one picture per prompt and seed, several at a time: for measuring, class pictures, previews.

    prompts, seeds: of equal length; they stand for `config.prompt`, `config.seed`, `config.num_images`,
    and are taken literally, without weights and wildcards. Of the rest of `config` what text-to-image in
    one pass needs holds for all. A batch rounds otherwise than a single picture, so a seed's picture may
    differ from `generate`'s by a level or so of 255.

    Raises: ConfigError for unequal lengths or settings that the base can't draw.
    """
    import torch

    if len(prompts) != len(seeds):
        raise ConfigError(f"got {len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt")
    size, _ = drawing_size(base, config, None)
    images: list[Image] = []
    with torch.no_grad(), at_rest_after(base):
        for start in range(0, len(prompts), batch_size):
            chosen = slice(start, start + batch_size)
            context = base.condition(prompts[chosen])
            if config.guidance_scale > 1:
                negatives = [config.negative_prompt] * len(prompts[chosen])
                context = context.after(base.condition(negatives, negative=True))
            latents = denoise(base, make_plan(base, config, context, seeds[chosen], size))
            assert latents is not None
            images.extend(to_images(base.decode_latents(latents)))
    return images


@dataclass(frozen=True)
class _Counter:
    """Counts the steps of several passes as one row: on_step gets done + the pass' own, of total."""

    on_step: OnStep | None
    done: int
    total: int

    def __call__(self, step: Step) -> bool | None:
        if self.on_step is None:
            return None
        return self.on_step(replace(step, done=self.done + step.done, total=self.total))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Scene:
    """What all pictures of a drawing share.

    grounds: of the first pass. steering: makes a pass' ControlNets for its (height, width). steps: of one
    picture, over all passes.
    """

    config: GenerationConfig
    canvas: Canvas
    ground: Ground
    steering: Callable[[Size], Steering | None]
    steps: int
    notes: tuple[str, ...]


def _scene(base: Base, config: GenerationConfig, inputs: Inputs, seen: torch.Tensor | None) -> _Scene:
    """Prepare what all pictures share. seen: of an image prompt, (2, 1, …)."""
    canvas = make_canvas(base, config, inputs)
    models = load_controls(base, config.controls)
    followed = [canvas.cropped(image) for image in inputs.controls]
    guided = config.guidance_scale > 1
    first, notes = make_controls(config.controls, models, followed, canvas.size, guided)
    if canvas.picture is None:
        ground = text_ground(base, config, canvas.size)
    else:
        ground = picture_ground(base, config, canvas.size, canvas.picture, canvas.hole)
    return _Scene(
        config=config,
        canvas=canvas,
        ground=replace(ground, seen=seen, steering=first),
        steering=lambda size: make_controls(config.controls, models, followed, size, guided)[0],
        steps=ground.steps + (hires_steps(config)[1] if config.hires_scale > 1 else 0),
        notes=(*canvas.notes, *notes),
    )


def _draw(base: Base, scene: _Scene, turn: Turn, on_step: _Counter) -> torch.Tensor | None:
    """Return (B, C, h, w) latents after all passes, or None when `on_step` stopped them."""
    config, ground = scene.config, scene.ground
    plan = make_plan(base, config, turn.context, turn.seeds, scene.canvas.size, ground)
    latents = denoise(base, plan, on_step)
    if latents is None or config.hires_scale <= 1:
        return latents
    size = hires_size(base, config, scene.canvas.size)
    above = hires_ground(base, config, size, enlarged(base, config.hires_upscaler, latents, size))
    above = replace(above, seen=ground.seen, steering=scene.steering(size))
    plan = make_plan(base, config, turn.context, turn.seeds, size, above)
    return denoise(base, plan, replace(on_step, done=on_step.done + ground.steps))


def _finished(
    base: Base, scene: _Scene, turn: Turn, latents: torch.Tensor, flagged: Callable[[Image], bool]
) -> Iterator[Picture]:
    """Decode B latents one by one, put them back where they belong, and record how they came about."""
    config, canvas = scene.config, scene.canvas
    shared = list(scene.notes)
    if len(turn.seeds) > 1:
        shared.append(f"drawn in a batch of {len(turn.seeds)}: alone it may differ by a level")
    for seed, prompts, one in zip(turn.seeds, turn.prompts, latents.split(1), strict=True):
        image, notes = to_images(base.decode_latents(one))[0], shared
        if flagged(image):
            image, notes = blackened(image), [*shared, NOTE]
        sizes = {"height": canvas.size[0], "width": canvas.size[1]}
        texts = {"prompt": prompts[0], "negative_prompt": prompts[1]}
        single = config.model_copy(update={"seed": seed, "num_images": 1, **sizes, **texts})
        settings = _settings(base, single, notes)
        if config.prompt != prompts[0]:
            settings["template"] = config.prompt
        if config.negative_prompt != prompts[1]:
            settings["negative_template"] = config.negative_prompt
        yield Picture(image=canvas.finish(image), settings=settings, seed=seed)


def _settings(base: Base, config: GenerationConfig, notes: Sequence[str]) -> dict[str, Any]:
    """What a picture's file says about itself, JSON-able: enough to draw it again.

    The libraries and the machine are there to tell why another one draws other bits.
    """
    import diffusers
    import torch

    model: dict[str, Any] = {
        "ref": base.ref,
        "sha256": base.sha256,
        "family": base.family.id,
        "prediction_type": base.prediction_type,
    }
    if base.source is not None and base.source.vae_path is not None:
        model["vae"] = {"ref": str(base.source.vae_path), "sha256": base.source.vae_sha256}
    return {
        "version": _VERSION,
        "generation": config.model_dump(mode="json"),
        "base": model,
        "libraries": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "machine": {} if base.setup is None else base.setup.as_data(),
        "notes": list(notes),
    }
