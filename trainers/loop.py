"""THE loop: a config in, events out, an adapter at the end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.base import Base, load_base
from pipelines.errors import ConfigError, StudioError
from pipelines.formats import write_adapter
from trainers import checkpoint
from trainers.batches import Batch, Stream, draw_batch
from trainers.cache import LatentCache, PromptEncoder, encode_pictures
from trainers.config import TrainConfig
from trainers.dataset import Dataset, cut, load_dataset
from trainers.events import Kind, TrainEvent
from trainers.evidence.held_out import HeldOut, hold_out
from trainers.inject import Injection, collect, disabled, injected
from trainers.objective import num_timesteps, predict, squared_errors, target, weights
from trainers.optimizers import OPTIMIZERS, rate_factor
from trainers.previews import draw_previews
from trainers.prior import cache_folder, make_class_pictures, plan
from trainers.run_folder import ADAPTER_NAME, CHECKPOINTS, open_run
from trainers.state import RunState


def train(config: TrainConfig, *, resume: bool = True) -> Generator[TrainEvent, None, None]:
    """Learn what `config` asks for, yielding an event at everything that happens.

    The adapter lies in `run.output`/adapter.safetensors when the "done" event comes. resume: go on from
    the run folder's last checkpoint, where there is one. Closing the generator commits a checkpoint and
    stops. The same config gives the same file on one machine with one number of threads, interrupted or
    not.

    Raises: before the first event, with nothing written, ConfigError, PictureError or BaseError for what
    can't be used; later StudioError where the loss isn't finite any more or the disk is full.
    """
    run, total, began = config.run, config.run.steps, time.monotonic()

    def event(kind: Kind, step: int, message: str, **data: Any) -> TrainEvent:
        return TrainEvent(kind=kind, step=step, total=total, message=message, data=data)

    # ── Refuse what can be refused, before anything is written
    dataset = load_dataset(config.data)
    with _threads(run.threads):
        base = load_base(
            run.base, device=run.device, dtype=run.precision, vae=run.vae or None,
            config=run.configs or None, prediction_type=run.prediction_type,
        )  # fmt: skip
        if base.inpainting:
            raise ConfigError(
                f"base {run.base!r} is an inpainting model, which isn't taught here; choose the plain model "
                "of its family: what is learned on that can be mixed into this one"
            )
        base_sha256 = base.sha256  # now, since its files may be others when the adapter is written
        resolution = _resolution(base, config)
        folder = open_run(config, resume)
        for note in dataset.notes:
            yield event("warning", 0, note)

        # ── Pictures become latents, once
        yield event("stage", 0, f"{len(dataset.learn)} pictures to learn from", stage="prepare")
        instance = encode_pictures(base, *cut(dataset.learn, config.data, resolution))
        held_out = _held_out(base, config, dataset, resolution)
        streams = [Stream.of("instance", instance, run.batch_size, 1.0, 2 * run.seed)]

        # ── The base's own pictures, so that it isn't forgotten
        if config.data.prior_weight > 0:
            prior = yield from _class_latents(base, config, resolution)
            size = config.data.prior_batch_size or run.batch_size
            streams.append(Stream.of("prior", prior, size, config.data.prior_weight, 2 * run.seed + 1))

        with injected(base, config.adapter, run.seed) as injection:
            parameters = list(injection.parameters.values())
            optimizer = OPTIMIZERS[config.optimizer.optimizer](
                injection.groups(config.optimizer), config.optimizer
            )
            rates = [group["lr"] for group in optimizer.param_groups]
            encode = PromptEncoder(base, injection.text_is_trained)
            encode_plain = PromptEncoder(base, trained=False)
            state = RunState(injection, optimizer, streams, dataset.sha256)

            # ── Go on where an earlier run stopped
            checkpoint.sweep(folder / CHECKPOINTS)
            saved, notes = checkpoint.latest(folder / CHECKPOINTS)
            for note in notes:
                yield event("warning", 0, note)
            if saved is not None:
                state.load(saved)
                yield event("stage", state.step, f"going on from step {state.step}", stage="resume")
            committed = state.step
            if state.step == 0:
                yield from _look(base, config, state, held_out, encode, at_start=True)

            # ── Learn
            try:
                while state.step < total:
                    step_began = time.monotonic()
                    factor = rate_factor(state.step, total, config.optimizer)
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * factor

                    batch = draw_batch(
                        streams, num_timesteps(base), config.objective.noise_offset, base.device
                    )
                    wanted = _wanted(injection, batch, config, encode_plain)  # (B, C, h, w)
                    predicted = predict(
                        base, batch.latents, batch.noise, batch.timesteps, encode(batch.captions)
                    )  # (B, C, h, w)
                    losses = squared_errors(predicted, wanted)  # (B,)
                    loss = (losses * batch.share * weights(base, batch.timesteps, config.objective)).sum()
                    loss.backward()
                    norm = torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_grad_norm)
                    if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
                        raise StudioError(_not_finite(state.step + 1, committed))
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    state.step += 1

                    parts = losses.detach().split(batch.sizes)
                    yield event(
                        "step",
                        state.step,
                        f"loss {loss.item():.4f}",
                        loss=loss.item(),
                        learning_rate=optimizer.param_groups[0]["lr"],
                        gradient_norm=norm.item(),
                        seconds=round(time.monotonic() - step_began, 4),
                        **{
                            f"{stream.name}_loss": part.mean().item()
                            for stream, part in zip(streams, parts, strict=True)
                        },
                    )
                    if state.step % run.checkpoint_every == 0 or state.step == total:
                        path = state.save(folder / CHECKPOINTS)
                        committed = state.step
                        where = path.relative_to(folder).as_posix()
                        yield event("checkpoint", state.step, f"checkpoint {path.name}", path=where)
                    yield from _look(base, config, state, held_out, encode)
            except GeneratorExit:
                if state.step > committed:
                    state.save(folder / CHECKPOINTS)
                raise

            # ── The adapter
            metadata = {
                "training": json.dumps(config.public(), ensure_ascii=False, sort_keys=True),
                "base_sha256": base_sha256,
                "pictures": str(len(dataset.learn)),
            }
            adapter = collect(injection, config.adapter_name, (config.data.trigger,), metadata)
            sha256 = write_adapter(adapter, folder / ADAPTER_NAME, format="kohya", dtype="fp16")
            yield event(
                "done",
                total,
                f"adapter {config.adapter_name!r} learned in {total} steps",
                adapter=ADAPTER_NAME,
                sha256=sha256,
                rank=adapter.rank,
                steps=total,
                seconds=round(time.monotonic() - began, 1),
            )


def _look(
    base: Base,
    config: TrainConfig,
    state: RunState,
    held_out: HeldOut | None,
    encode: PromptEncoder,
    at_start: bool = False,
) -> Iterator[TrainEvent]:
    """Measure and draw where this step asks for it; a preview that fails is a warning."""
    run, step, total = config.run, state.step, config.run.steps

    def due(every: int) -> bool:
        return every > 0 and (at_start or step % every == 0 or step == total)

    if held_out is not None and due(run.evaluate_every):
        loss = held_out.loss(base, encode)
        message = f"held-out loss {loss:.4f}"
        yield TrainEvent(kind="held_out", step=step, total=total, message=message, data={"loss": loss})
    if due(run.preview_every):
        try:
            data = draw_previews(base, config, run.output, step)
        except Exception as error:  # Nothing that goes wrong with a picture may end the run.
            message = f"preview failed ({type(error).__name__}: {error})"
            yield TrainEvent(kind="warning", step=step, total=total, message=message)
        else:
            message = f"preview of {len(data['files'])} prompts"
            yield TrainEvent(kind="preview", step=step, total=total, message=message, data=data)


def _wanted(
    injection: Injection, batch: Batch, config: TrainConfig, encode_plain: PromptEncoder
) -> torch.Tensor:
    """What the UNet should predict for a batch, (B, C, h, w).

    For class pictures under `prior_target = "base"` that is what it predicts without the adapter: the
    adapter is then pulled back only where it has moved something.
    encode_plain: keeps the embeddings of the untrained text encoder.
    """
    base = injection.base
    wanted = target(base, batch.latents, batch.noise, batch.timesteps)
    if len(batch.sizes) == 1 or config.objective.prior_target == "picture":
        return wanted
    prior = batch.part(1)
    with torch.no_grad(), disabled(injection):
        kept = predict(base, prior.latents, prior.noise, prior.timesteps, encode_plain(prior.captions))
    return torch.cat([wanted[: batch.sizes[0]], kept])


def _class_latents(
    base: Base, config: TrainConfig, resolution: int
) -> Generator[TrainEvent, None, LatentCache]:
    """Yield what happens while class pictures are made; return their latents."""
    planned = plan(config.data)
    cache = cache_folder(config.run.cache)
    pictures = yield from make_class_pictures(base, planned, cache, resolution, config.run.steps)
    return encode_pictures(base, pictures, [one.prompt for one in planned])


def _held_out(base: Base, config: TrainConfig, dataset: Dataset, resolution: int) -> HeldOut | None:
    if not (dataset.held_out and config.run.evaluate_every):
        return None
    return hold_out(base, encode_pictures(base, *cut(dataset.held_out, config.data, resolution)))


def _resolution(base: Base, config: TrainConfig) -> int:
    """Side of the squares in pixels. Raises: ConfigError where it isn't a whole number of latents."""
    resolution = config.data.resolution or base.resolution
    # Each down block but the last halves the latents.
    multiple = base.vae_scale_factor * 2 ** (len(base.unet.config["block_out_channels"]) - 1)
    if resolution % multiple:
        near = max(multiple, round(resolution / multiple) * multiple)
        raise ConfigError(f"data.resolution: got {resolution}, expected a multiple of {multiple}; use {near}")
    return resolution


def _not_finite(step: int, committed: int) -> str:
    kept = f"the checkpoint at step {committed} is kept" if committed else "nothing was saved"
    return f"loss isn't finite at step {step} ({kept}); lower optimizer.learning_rate and start afresh"


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use `count` CPU threads for a while; None: as many as before."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
