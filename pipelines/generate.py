"""Settings to pictures: one random generator per picture, its settings in the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines.denoise import OnStep, Step, at_rest_after, denoise, initial_noise
from pipelines.drawing.hires import enlarged, hires_size
from pipelines.drawing.images import drawing_size, to_images
from pipelines.drawing.masks import Canvas, make_canvas
from pipelines.drawing.plans import (
    Ground,
    hires_ground,
    hires_steps,
    make_plan,
    picture_ground,
    text_ground,
)
from pipelines.errors import ConfigError
from pipelines.generation import AdapterUse, GenerationConfig, Inputs, PictureUse, recorded
from pipelines.picture import Picture, read_settings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.conditioning import Conditioning

__all__ = [
    "AdapterUse",
    "GenerationConfig",
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
    base: Base, config: GenerationConfig, *, inputs: Inputs | None = None, on_step: OnStep | None = None
) -> list[Picture]:
    """Draw `config.num_images` pictures with seeds seed, seed + 1, …

    `config.batch_size` of them are denoised at once; with 1 a seed gives the same bits whatever else is
    drawn. inputs: the pictures to draw from; those that `config` doesn't record yet are recorded. The
    adapters in `config` are a record: mixing them into the base is the caller's (see `Mixer`). on_step
    counts over all passes; when it returns False, the pictures already finished are returned.

    Raises: ConfigError for settings that the base can't draw, or pictures that don't go with them.
    """
    import torch

    inputs = inputs or Inputs()
    config = recorded(config, inputs)
    _check(config)
    pictures: list[Picture] = []
    with torch.no_grad(), at_rest_after(base):
        canvas = make_canvas(base, config, inputs)
        turns = list(_turns(base, config))
        ground = _first_ground(base, config, canvas)
        each = ground.steps + (hires_steps(config)[1] if config.hires_scale > 1 else 0)
        for index, turn in enumerate(turns):
            counted = _Counter(on_step, index * each, len(turns) * each)
            latents = _draw(base, config, turn, canvas, ground, counted)
            if latents is None:
                break
            pictures.extend(_finished(base, config, turn, canvas, latents))
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


def _check(config: GenerationConfig) -> None:
    """Raise ConfigError for settings that don't go together."""
    if config.mask is not None and config.hires_scale > 1:
        raise ConfigError(
            f"hires_scale is {config.hires_scale:g} with a mask, whose part would outgrow its picture; "
            f"set it to 1, and mask_padding to draw the masked part at full size"
        )


@dataclass(frozen=True, eq=False)
class _Turn:
    """Pictures that are drawn at once: B seeds, prompts, negative prompts, and what the UNet is told."""

    seeds: tuple[int, ...]
    prompts: tuple[tuple[str, str], ...]
    context: Conditioning


def _turns(base: Base, config: GenerationConfig) -> Iterator[_Turn]:
    """Resolve and encode each seed's prompts; those of one length go together, up to `batch_size`."""
    from pipelines.prompts import resolve_wildcards

    encoded: dict[tuple[str, str], Conditioning] = {}
    waiting: list[tuple[int, tuple[str, str]]] = []

    def turn() -> _Turn:
        seeds, prompts = zip(*waiting, strict=True)
        contexts = [encoded[pair] for pair in prompts]
        waiting.clear()
        return _Turn(seeds, prompts, _side_by_side(contexts))

    for seed in range(config.seed, config.seed + config.num_images):
        texts = (config.prompt, config.negative_prompt)
        pair = (resolve_wildcards(texts[0], seed), resolve_wildcards(texts[1], seed))
        if pair not in encoded:
            encoded[pair] = _context(base, pair, config)
        other = waiting and encoded[waiting[0][1]].hidden.shape != encoded[pair].hidden.shape
        if len(waiting) == config.batch_size or other:
            yield turn()
        waiting.append((seed, pair))
    yield turn()


def _context(base: Base, prompts: tuple[str, str], config: GenerationConfig) -> Conditioning:
    """Encode a prompt, after its negative one where guidance is on."""
    from pipelines.prompts import encode, split_tags

    _, tags = split_tags(prompts[0])
    if tags:
        raise ConfigError(
            f"the prompt names the adapter {tags[0].name!r} by a tag, but nothing mixed it in; "
            f"mix it by its weight, and take the tag out of the prompt"
        )
    negatives = [prompts[1]] if config.guidance_scale > 1 else []
    positive, negative = encode(base, [prompts[0]], negatives, clip_skip=config.clip_skip)
    return positive.after(negative) if negatives else positive


def _side_by_side(contexts: Sequence[Conditioning]) -> Conditioning:
    """Join contexts of one prompt, or of a negative and a positive one each: all negative ones first."""
    import torch

    from pipelines.conditioning import Conditioning

    if len(contexts) == 1:
        return contexts[0]
    # (B, 1 or 2, …) → (1 or 2, B, …) → (B or 2B, …)
    hidden = torch.stack([context.hidden for context in contexts]).transpose(0, 1).flatten(0, 1)
    pooled = [context.pooled for context in contexts if context.pooled is not None]
    return Conditioning(hidden, torch.stack(pooled).transpose(0, 1).flatten(0, 1) if pooled else None)


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


def _first_ground(base: Base, config: GenerationConfig, canvas: Canvas) -> Ground:
    """What the first pass draws on."""
    if canvas.picture is None:
        return text_ground(base, config, canvas.size)
    return picture_ground(base, config, canvas.size, canvas.picture, canvas.hole)


def _draw(
    base: Base, config: GenerationConfig, turn: _Turn, canvas: Canvas, ground: Ground, on_step: _Counter
) -> torch.Tensor | None:
    """Return (B, C, h, w) latents after all passes, or None when `on_step` stopped them."""
    plan = make_plan(base, config, turn.context, turn.seeds, canvas.size, ground)
    latents = denoise(base, plan, on_step)
    if latents is None or config.hires_scale <= 1:
        return latents
    size = hires_size(base, config, canvas.size)
    above = hires_ground(base, config, size, enlarged(base, config.hires_upscaler, latents, size))
    plan = make_plan(base, config, turn.context, turn.seeds, size, above)
    return denoise(base, plan, replace(on_step, done=on_step.done + ground.steps))


def _finished(
    base: Base, config: GenerationConfig, turn: _Turn, canvas: Canvas, latents: torch.Tensor
) -> Iterator[Picture]:
    """Decode B latents one by one, put them back where they belong, and record how they came about."""
    notes = list(canvas.notes)
    if len(turn.seeds) > 1:
        notes.append(f"drawn in a batch of {len(turn.seeds)}: alone it may differ by a level")
    for seed, prompts, one in zip(turn.seeds, turn.prompts, latents.split(1), strict=True):
        drawn = to_images(base.decode_latents(one))[0]
        sizes = {"height": canvas.size[0], "width": canvas.size[1]}
        texts = {"prompt": prompts[0], "negative_prompt": prompts[1]}
        single = config.model_copy(update={"seed": seed, "num_images": 1, **sizes, **texts})
        settings = _settings(base, single, notes)
        if config.prompt != prompts[0]:
            settings["template"] = config.prompt
        if config.negative_prompt != prompts[1]:
            settings["negative_template"] = config.negative_prompt
        yield Picture(image=canvas.finish(drawn), settings=settings, seed=seed)


def _settings(base: Base, config: GenerationConfig, notes: Sequence[str]) -> dict[str, Any]:
    """What a picture's file says about itself, JSON-able: enough to draw it again."""
    import diffusers
    import torch

    return {
        "version": _VERSION,
        "generation": config.model_dump(mode="json"),
        "base": {
            "ref": base.ref,
            "sha256": base.sha256,
            "family": base.family.id,
            "prediction_type": base.prediction_type,
        },
        "libraries": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "notes": list(notes),
    }
