"""THE loop: a config in, events out, an adapter at the end."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from pipelines.base import load_base
from trainers import known, memory
from trainers.averages import Averages
from trainers.batches import Batch, draw_step
from trainers.bundle import Told
from trainers.captioning import write_captions
from trainers.choosing import choose
from trainers.conditions import Asked, PromptEncoder
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.events import Kind, TrainEvent
from trainers.evidence.concluding import Conclusion
from trainers.inversion import freeze, phase
from trainers.learning import (
    Captions,
    Losses,
    base_arguments,
    check_base,
    check_injection,
    computing,
    predict_batch,
    rates_now,
    threads,
    wanted,
    words_alone,
)
from trainers.looking import Looks
from trainers.objective import noise_levels, sample_losses, weights
from trainers.optimizers import base_rate_scale, build_optimizer
from trainers.precision import Precision
from trainers.preparing import before_captions, doctor_notes, forwards, plan_cuts, prepare, resolution_of
from trainers.prior import cache_folder
from trainers.processes import joined
from trainers.room import check_room, pausing_when_full
from trainers.run_folder import CHECKPOINTS, open_run
from trainers.state import RunState
from trainers.stepping import Readings, Stepper
from trainers.tuning import injected


def train(config: TrainConfig, *, resume: bool = True) -> Generator[TrainEvent, None, None]:
    """Learn what `config` asks for, yielding an event at everything that happens.

    The adapter lies in `run.output`/adapter.safetensors when the "done" event comes. resume: go on from
    the run folder's last checkpoint, where there is one. Closing the generator commits a checkpoint and
    stops. The same config gives the same file on one machine with one number of threads, interrupted or
    not. Of several processes (`trainers.processes`) each runs this on its share; the first one writes.

    Raises: before the first event, with nothing written, ConfigError, PictureError or BaseError for what
    can't be used; later StudioError where the loss isn't finite any more, or the disk or the memory is full.
    """
    run, total, began = config.run, config.run.steps, time.monotonic()
    caches = cache_folder(run.cache)

    def event(kind: Kind, step: int, message: str, /, **data: Any) -> TrainEvent:
        return TrainEvent(kind=kind, step=step, total=total, message=message, data=data)

    def warnings(step: int, *notes: str) -> Iterator[TrainEvent]:
        return (event("warning", step, note) for note in notes)

    # ── Refuse what can be refused, before anything is written
    dataset = load_dataset(before_captions(config.data), caches)
    with ExitStack() as held:
        held.enter_context(threads(run.threads))
        held.enter_context(memory.explained(config))
        held.enter_context(pausing_when_full())
        processes = held.enter_context(joined(run.device))
        processes.check_batch(run.batch_size)
        with memory.explained(config, "load"):
            base = load_base(run.base, **base_arguments(config, processes))
        check_base(base)
        base_sha256 = known.base_sha256(base, caches)  # now: its files may be others at the end
        levels = noise_levels(base, config.objective)
        cuts = plan_cuts(base, config, dataset)
        numbers = check_injection(base, config, dataset)
        if processes.main:
            check_room(config, resolution_of(base, config), numbers)
        folder = open_run(config, resume, resolution_of(base, config), writes=processes.main)
        with processes.main_first():
            choices = choose(base, config, folder, caches, writes=processes.main)
        held.enter_context(choices.put_on(base))
        chosen = choices.applied(config)

        # ── Captions, where a model is to write them
        if config.data.captioner:
            with processes.main_first():
                yield from write_captions(config.data, run.device, total)
            dataset = load_dataset(config.data, caches)
            cuts = plan_cuts(base, config, dataset)
        yield from warnings(0, *dataset.notes, *levels.notes, *choices.notes)
        yield from warnings(0, *doctor_notes(base, config, dataset))

        # ── Pictures become latents, and the base draws its own, once
        yield event("stage", 0, f"{len(dataset.learn)} pictures to learn from", stage="prepare")
        with processes.main_first(), memory.explained(config, "encode"):
            prepared = yield from prepare(base, config, cuts)

        # ── The method goes into the base
        calls = forwards(base, levels, config, prepared)
        quick = "layers" not in run.without
        taught = held.enter_context(ExitStack())
        injection = taught.enter_context(
            injected(base, config.adapter, run.seed, word=config.data.trigger, forwards=calls, quick=quick)
        )
        recomputed = taught.enter_context(computing(base, chosen, injection, prepared, levels, processes))
        groups = injection.groups(config.optimizer, base_rate_scale(base))
        optimizer = build_optimizer(groups, config.optimizer)
        averages = Averages(injection.parameters, optimizer, config.optimizer)
        precision = Precision(chosen.run, base.device, base.unet.dtype)
        encode = PromptEncoder(base, injection.text_is_trained, prepared.folder)
        of_base = config.objective.prior_target == "base"
        captions = Captions(injection, encode, PromptEncoder(base, trained=False), of_base)
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        told = Told(config, chosen, dataset, cuts, base, base_sha256, processes.size)
        looks = Looks.at(told, prepared, injection, averages, encode, rates)
        conclusion = Conclusion(told, looks.kept, processes)
        peak = memory.Peak(base.device)

        # ── What is minimised
        def loss_of(batch: Batch, asked: Sequence[Asked]) -> tuple[torch.Tensor, torch.Tensor]:
            with precision.autocast():
                aim = wanted(injection, levels, batch, captions, asked)  # (B, C, h, w)
                predicted = predict_batch(base, levels, batch, encode.tell(asked[0]))  # (B, C, h, w)
            at, asks = batch.timesteps, config.objective
            each = sample_losses(predicted, aim, batch.mask, levels, at, asks)  # (B,)
            counts = batch.share * weights(levels, at, asks)  # (B,)
            return (each * counts).sum(), each

        def minimised(batch: Batch) -> torch.Tensor:
            return loss_of(batch, captions.ask(batch))[0]

        stepper = Stepper(captions.ask, loss_of, config, injection, optimizer, precision, processes)
        state = RunState(injection, optimizer, stepper, averages, precision, prepared.streams, cuts.sha256)
        losses = Losses(prepared.streams, config, base.device)
        readings = Readings(losses.names, run, waits=stepper.waits)
        yield from warnings(0, *injection.notes, *recomputed)
        yield event("stage", 0, injection.describe(), stage="inject", rates=sorted(set(rates)))
        yield from encode.prepare(prepared.captions, total)

        # ── Go on where an earlier run stopped
        yield from warnings(0, *state.go_on(folder / CHECKPOINTS, processes))
        if state.step:
            yield event("stage", state.step, f"going on from step {state.step}", stage="resume")
        processes.copy_from_main(list(injection.parameters.values()))
        committed = state.step
        if processes.main:
            yield from looks.begin(state.step)

        # ── Learn
        try:
            while state.step < total and not looks.ended(state.step, processes):
                now = phase(state.step, total, words_alone(config.adapter))
                averages.hold(freeze(injection.parameters, now))
                stepper.rates(rates_now(rates, now, config))

                losses.clear()
                drawn = draw_step(prepared.streams, levels, config.objective, run.accumulate)
                for batch in (part.to(base.device) for part in processes.part(drawn)):
                    losses.add(*stepper.learn(batch, state.step), batch)
                if (penalty := injection.penalty()) is not None:
                    precision.backward(penalty / processes.size)
                found = losses.over(processes)
                norm = stepper.take(found)
                state.step += 1
                readings.add(state.step, found, norm, stepper.step_size)
                read = readings.due(state.step)
                looks.note(read)
                if read and not read[-1].finite:
                    raise conclusion.broken(injection, read[-1], drawn, minimised, committed)
                if not precision.skipped:
                    injection.after_step(state.step, total)
                    averages.after_step(injection.pruned())
                stepper.clear()
                saves = state.step % run.checkpoint_every == 0 or state.step == total
                if read and (saves or looks.asks(state.step)) and (left := state.unsound()) is not None:
                    raise conclusion.broken(injection, read[-1], drawn, minimised, committed, left)

                for one in read:
                    yield event(
                        "step", one.step, f"loss {one.loss:.4f}", **one.losses, learning_rate=one.rate,
                        gradient_norm=one.norm, seconds=round(one.seconds, 4), memory_bytes=peak.bytes(),
                    )  # fmt: skip
                yield from warnings(state.step, *precision.notes(), *stepper.notes())
                if processes.main and saves:
                    path, committed = state.save(folder / CHECKPOINTS, run.keep_checkpoints), state.step
                    where = path.relative_to(folder).as_posix()
                    yield event("checkpoint", state.step, f"checkpoint {path.name}", path=where)
                if processes.main:
                    yield from looks.due(state.step)
                readings.restart()
        except GeneratorExit:
            if processes.main and state.step > committed:
                state.save(folder / CHECKPOINTS, keep=run.keep_checkpoints)
            raise

        # ── The adapter of the step that is recommended, and what it has learned
        if processes.main:
            if state.step > committed:  # it was ended early
                state.save(folder / CHECKPOINTS, run.keep_checkpoints)
            with memory.explained(config, "save"):
                written = looks.write(state.step)
            taught.close()
            written = yield from conclusion.conclude(written, state.step)
            written |= {"seconds": round(time.monotonic() - began, 1), "memory_bytes": peak.bytes()}
            said = f"adapter {config.adapter_name!r} learned in {state.step} steps"
            yield event("done", state.step, said, steps=state.step, **written)
