"""How long a training takes on this device, and how much memory: by FLOPs, mended by earlier runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.errors import StudioError
from studio.base_shapes import Shape, shape_of, sized
from studio.context import Context
from studio.jobs import Job
from studio.speeds import LATEST, Device, Timeline, by_flops, device, since, timeline
from trainers.evidence.asking import fixed_prompts, unrelated_prompts
from trainers.evidence.record import CLASS_LEVELS, FEW_LEVELS, LEVELS, TAUGHT

if TYPE_CHECKING:
    from trainers.config import TrainConfig

_LIBRARIES = {"cpu": 480_000_000}
_ON_CARD = 375_000_000
"""Bytes beside weights and activations: loaded libraries on a CPU, work space and fragments on a card."""
_CLASS_PASSES = 16
"""Passes of a class picture (`trainers.prior`)."""
_UNKNOWN = Device("cpu", "", 1e11, 5e10, 0)
_START, _READ = 6.0, 5e8
"""Seconds until a process has loaded its libraries, and bytes of weights that are read per second."""


@dataclass(frozen=True)
class Estimate:
    """What a training is going to take.

    Attributes:
        seconds: from start to end; None while a card is being measured.
        bytes: of memory at most: the card's where there is one, else the process's.
        basis: what it leans on, in words.
    """

    seconds: float | None
    bytes: int
    basis: str


@dataclass(frozen=True)
class Load:
    """Seconds of the parts of a training: of a step, a preview's picture, a class picture, and the start."""

    step: float
    picture: float
    class_picture: float
    start: float


def estimate(context: Context, config: TrainConfig, pictures: int) -> Estimate:
    """Estimate a training of so many pictures on this device, in a few milliseconds.

    Earlier runs of the workspace on this machine with the same base say how far the count by FLOPs is off.
    """
    run, workspace = config.run, context.workspace
    shape, found = shape_of(workspace, run.base), device(workspace, run.device)
    on = found or _UNKNOWN
    known = earlier(context, config)
    load, needed = expected(config, shape, on), memory(config, shape, on)
    counts = [(expected(before, shape, on), lasted) for before, lasted, _ in known]
    load = _mended(load, counts)
    off = [
        (lasted.memory if on.kind != "cpu" else job.memory) - memory(before, shape, on)
        for before, lasted, job in known
        if (lasted.memory if on.kind != "cpu" else job.memory) > 0
    ]
    needed = max(0, needed + int(statistics.median(off))) if off else needed
    if known:
        many = f"the last {len(known)} trainings" if len(known) > 1 else "the last training"
        basis = f"by {many} with this base on this machine"
    elif found is None:
        return Estimate(None, needed, "the graphics card is being measured; a moment")
    else:
        basis = f"roughly, by the speed of {found.name}; better after a first training"
    return Estimate(_whole(config, load, pictures, drawn_before(config, known)), needed, basis)


def earlier(context: Context, config: TrainConfig) -> list[tuple[TrainConfig, Timeline, Job]]:
    """The last finished runs on this machine with the same base and device, and what their logs say."""
    from trainers.config import validate

    begin = since(context.workspace)
    found: list[tuple[TrainConfig, Timeline, Job]] = []
    for job in context.jobs.find(kind="train", states=("done",), limit=4 * LATEST):
        said = job.config.get("run", {})
        same = said.get("base") == config.run.base and said.get("device") == config.run.device
        if not same or job.started is None or job.started < begin or len(found) == LATEST:
            continue
        try:
            before = validate(job.config)
        except StudioError:
            continue  # of another version
        lasted = timeline(context.jobs.folder(job) / "events.jsonl", job.started)
        if lasted is not None and lasted.step:
            found.append((before, lasted, job))
    return found


def expected(config: TrainConfig, shape: Shape, on: Device) -> Load:
    """What the parts of a training take, by their FLOPs."""
    rate, beside = by_flops(on)
    run, own = config.run, _learned(config, shape)
    each = own.again if recomputes(config, shape, on) else own.step
    side = own.resolution
    area = (run.preview_width or side) * (run.preview_height or side) / side**2
    guided = 2 if run.preview_guidance > 1 else 1
    at_once = max(1, min(8, 4 * 512 * 512 // side**2))
    return Load(
        step=run.accumulate * (samples(config) * each / rate + beside),
        picture=run.preview_steps * (guided * area * own.forward / rate + beside),
        class_picture=_CLASS_PASSES * (2 * own.forward / rate + beside / at_once),
        start=_START + 4 * shape.weights / _READ,
    )


def _learned(config: TrainConfig, shape: Shape) -> Shape:
    """The base with pictures of the side that is learned."""
    return sized(shape, config.data.resolution) if config.data.resolution else shape


def samples(config: TrainConfig) -> int:
    """Pictures in a batch, class pictures among them."""
    own = config.run.batch_size
    return own + ((config.data.prior_batch_size or own) if config.data.prior_weight else 0)


def recomputes(config: TrainConfig, shape: Shape, on: Device) -> bool:
    """Whether blocks are computed a second time to save memory: as asked, or where all wouldn't fit."""
    asked = config.run.gradient_checkpointing
    if asked != "auto":
        return asked != "none"
    return 0 < on.memory * 0.9 < _memory(config, shape, on, recomputed=False)


def memory(config: TrainConfig, shape: Shape, on: Device) -> int:
    """Bytes that a training takes at most."""
    return _memory(config, shape, on, recomputed=recomputes(config, shape, on))


def _memory(config: TrainConfig, shape: Shape, on: Device, *, recomputed: bool) -> int:
    own, adapter = _learned(config, shape), config.adapter
    size = 4 if on.kind == "cpu" or config.run.precision == "fp32" else 2
    weights = shape.weights if on.kind == "cpu" or config.run.offload == "none" else shape.unet
    activations = samples(config) * (own.kept_again if recomputed else own.kept) * size / 4
    layers = shape.attention + (shape.feed_forward if adapter.unet_targets != "attention" else 0)
    learned = layers * adapter.rank * 16  # fp32: the number, its gradient, AdamW's two averages
    return int(weights * size + activations + learned + _LIBRARIES.get(on.kind, _ON_CARD))


def _mended(load: Load, counts: Sequence[tuple[Load, Timeline]]) -> Load:
    """What was expected, times what earlier runs took beside what was expected of them."""

    def times(name: str) -> float:
        found = [
            lasted / getattr(thought, name)
            for thought, before in counts
            if (lasted := getattr(before, name)) is not None and lasted > 0
        ]
        return statistics.median(found) if found else 1.0

    off = times("step")
    # What no run has drawn is off as much as what they have learned.
    drawn = {
        name: times(name) if any(getattr(t, name) for _, t in counts) else off
        for name in ("picture", "class_picture")
    }
    return Load(
        load.step * off, load.picture * drawn["picture"], load.class_picture * drawn["class_picture"],
        load.start * times("start"),
    )  # fmt: skip


def drawn_before(config: TrainConfig, known: Sequence[tuple[TrainConfig, Timeline, Job]]) -> bool:
    """Whether an earlier run has drawn the class pictures, which are kept."""
    asks = ("class_prompt", "num_class_images", "prior_breadth", "resolution", "class_images")
    own = [getattr(config.data, name) for name in asks]
    return any(
        before.data.prior_weight and [getattr(before.data, name) for name in asks] == own
        for before, _, _ in known
    )


def _measured(config: TrainConfig, learned: int, apart: int) -> int:
    """Samples that losses are measured on each time."""
    each = {
        "held_out": apart * LEVELS,
        **dict.fromkeys(("teaching", "altered", "plain"), min(TAUGHT, learned) * FEW_LEVELS),
        "class": config.evidence.class_samples * CLASS_LEVELS,
    }
    return sum(each[name] for name in config.evidence.measured_on)


def _at_the_end(config: TrainConfig) -> int:
    """Pictures that are drawn to be measured, with the adapter and without it."""
    if not config.evidence.samples:
        return 0
    told = fixed_prompts(config.data, config.evidence)
    return 2 * (len(told) * config.evidence.samples + len(unrelated_prompts(config.data)))


def _whole(config: TrainConfig, load: Load, pictures: int, drawn: bool) -> float:
    """Seconds of all parts together."""
    run, data = config.run, config.data
    looks = 1 + -(-run.steps // run.preview_every) if run.preview_every else 0
    shown = (len(run.preview_prompts) or (2 if data.class_prompt else 1)) * (len(run.preview_seeds) or 1)
    made = data.num_class_images if data.prior_weight and data.class_images is None and not drawn else 0
    apart = data.set_aside(pictures)
    measures = 1 + -(-run.steps // run.evaluate_every) if run.evaluate_every else 0
    samples = _measured(config, pictures - apart, apart)
    pass_ = load.picture / max(1, run.preview_steps) / 2
    return (
        load.start
        + made * load.class_picture
        + run.steps * load.step
        + looks * shown * load.picture
        + (measures * samples + pictures) * pass_
        + _at_the_end(config) * load.picture
    )
