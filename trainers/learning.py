"""What the loop's steps are made of, beside the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.base import Base
from pipelines.conditioning import Conditioning
from pipelines.device import choose_device
from pipelines.errors import ConfigError
from pipelines.methods import TUNINGS
from trainers import memory
from trainers.batches import Batch, Stream, where_of
from trainers.conditions import Asked, PromptEncoder
from trainers.config import TrainConfig
from trainers.dataset import Dataset
from trainers.fitting import Fit, fit_run
from trainers.frozen import in_one_piece
from trainers.inversion import PREFIX, Phase
from trainers.objective import Levels, predict, target
from trainers.optimizers import build_optimizer, rate_factor
from trainers.preparing import PRIOR, Prepared
from trainers.processes import Processes
from trainers.settings import AdapterConfig
from trainers.tuning import Injection, injected
from trainers.tuning.starts import check_starts
from trainers.tuning.targets import seats


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use `count` CPU threads for a while; None: as many as before."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def base_arguments(config: TrainConfig, processes: Processes) -> dict[str, Any]:
    """Return what `load_base` is told for a training.

    Raises: ConfigError for what can't be trained through.
    """
    run = config.run
    device = processes.device or run.device
    chosen = choose_device(device, run.precision)
    return {
        "device": device,
        "dtype": run.precision,
        "vae": run.vae or None,
        "config": run.configs or None,
        "prediction_type": run.prediction_type,
        "placement": memory.placement(run, chosen.device, chosen.dtype),
    }


def check_base(base: Base) -> None:
    """Raises: ConfigError for a base that isn't taught here."""
    if base.inpainting:
        raise ConfigError(
            f"base {base.ref!r} is an inpainting model, which isn't taught here; choose the plain model "
            "of its family: what is learned on that can be mixed into this one"
        )


def check_injection(base: Base, config: TrainConfig, dataset: Dataset) -> int:
    """Put the adapter in and take it out again, so that what doesn't go together is said at once.

    Returns: how many numbers will learn.

    Raises: ConfigError as `inject` and `build_optimizer` do.
    """
    trial = config.adapter.model_copy(update={"initialisation": "default"})  # the others take their time
    if config.adapter.initialisation != trial.initialisation:
        check_starts(seats(base, config.adapter)[0])
    run = config.run
    quick = "layers" not in run.without
    with injected(base, trial, run.seed, word=config.data.trigger, quick=quick) as trial_injection:
        if trial_injection.words is not None and not config.data.captioner:  # whose captions have the trigger
            trial_injection.words.check_captions([item.caption for item in dataset.learn])
        build_optimizer(trial_injection.groups(config.optimizer), config.optimizer)
        if run.channels_last and base.device.type == "cpu":
            _check_norms(base)
        return sum(parameter.numel() for parameter in trial_injection.parameters.values())


@contextmanager
def computing(
    base: Base,
    config: TrainConfig,
    injection: Injection,
    prepared: Prepared,
    levels: Levels,
    processes: Processes,
) -> Iterator[tuple[str, ...]]:
    """Let a base compute as suits a run that learns, for a while; the numbers are the same up to rounding.

    Its frozen parts in one piece, as much a second time as lets the run fit, and what doesn't learn off the
    device between uses. Yields: what people should know of it.
    """
    encoders = encoders_learning(injection)

    def fit() -> Fit:
        return fit_run(base, config, injection, prepared, levels, processes.size)

    with (
        in_one_piece(base, "frozen" not in config.run.without),
        memory.checkpointing(base, config.run.gradient_checkpointing, encoders, fit) as notes,
        memory.parked(base, encoders),
    ):
        yield notes


def _check_norms(base: Base) -> None:
    """Raises: ConfigError where the UNet's group norms learn: with channels last PyTorch 2.13's backward pass
    on a CPU then ends the process where the norm's input takes no gradient."""
    norms = [module for module in base.unet.modules() if isinstance(module, torch.nn.GroupNorm)]
    if any(parameter.requires_grad for norm in norms for parameter in norm.parameters()):
        raise ConfigError(
            "run.channels_last: got true where norms learn on a CPU, which PyTorch can't do; leave it out"
        )


def encoders_learning(injection: Injection) -> frozenset[str]:
    """Return the text encoders that carry part of the adapter, or its words."""
    parts = (name.removeprefix(PREFIX).split(".", 1)[0] for name in injection.parameters)
    return frozenset(part for part in parts if part != "unet")


def words_alone(adapter: AdapterConfig) -> float:
    """Return the share of the run in which only learned words learn; 0 where there are none."""
    tuning = TUNINGS[adapter.method]
    if not tuning.tokens:
        return 0.0
    return adapter.tokens_alone if tuning.components else 1.0


def rates_now(rates: Sequence[float], now: Phase, config: TrainConfig) -> list[float]:
    """Return each group's learning rate at a step, of those that they were given."""
    factor = rate_factor(now.step, now.total, config.optimizer)
    return [rate * factor for rate in rates]


def predict_batch(base: Base, levels: Levels, batch: Batch, told: Conditioning) -> torch.Tensor:
    """Return what the UNet predicts for a batch, fp32 (B, C, h, w). told: its captions, encoded."""
    return predict(base, levels, batch.latents, batch.input_noise, batch.timesteps, told, batch.frames)


@dataclass(frozen=True, eq=False)
class Captions:
    """What the UNet is told: with what the text encoders learn, and without it for the base's own answers.

    of_base: whether class pictures are asked about without the adapter (`prior_target = "base"`).
    """

    injection: Injection
    encode: PromptEncoder
    plain: PromptEncoder
    of_base: bool

    def ask(self, batch: Batch) -> list[Asked]:
        """Do what needs the captions' text: for the batch, and for its class pictures where that is asked."""
        asked = [self.encode.ask(batch.captions)]
        if self.of_base and (rows := batch.rows(PRIOR)):
            with self.injection.disabled():
                asked.append(self.plain.ask([batch.captions[row] for row in rows]))
        return asked


def wanted(
    injection: Injection, levels: Levels, batch: Batch, captions: Captions, asked: Sequence[Asked]
) -> torch.Tensor:
    """Return what the UNet should predict for a batch, (B, C, h, w).

    For class pictures under `prior_target = "base"` that is what it predicts without the adapter: the
    adapter is then pulled back only where it has moved something. asked: the batch's captions, and then
    those of its class pictures.
    """
    aim = target(levels, batch.latents, batch.noise, batch.timesteps)
    if len(asked) == 1:
        return aim
    rows = batch.rows(PRIOR)
    with torch.no_grad(), injection.disabled():
        kept = predict_batch(injection.base, levels, batch.take(rows), captions.plain.tell(asked[1]))
    aim = aim.clone()  # it may be the noise itself
    aim[where_of(rows, aim.device)] = kept
    return aim


class Losses:
    """Adds up the losses of a step's batches on the device, to be read when it is convenient.

    names: of what is added up: what is minimised, and each stream's own mean.
    """

    def __init__(self, streams: Sequence[Stream], config: TrainConfig, device: torch.device) -> None:
        self.names = ("loss", *(f"{stream.name}_loss" for stream in streams))
        self._counts = [stream.size * config.run.accumulate for stream in streams]
        self._device = _wide(device)
        self.clear()

    def clear(self) -> None:
        """Begin the next step."""
        self._sums = torch.zeros(len(self.names), dtype=torch.float64, device=self._device)

    def add(self, loss: torch.Tensor, each: torch.Tensor, batch: Batch) -> None:
        """Take in a batch: its part of the step's loss, and each sample's own, (B,); both are detached."""
        self._sums[0] += loss.to(self._device)
        for stream, count in enumerate(self._counts):
            if rows := batch.rows(stream):
                own = each[where_of(rows, each.device)].sum()
                self._sums[1 + stream] += own.to(self._device) / count

    def over(self, processes: Processes) -> torch.Tensor:
        """Return the step's losses over all processes, fp64 (names,), where they are."""
        return processes.sum(self._sums)


def _wide(device: torch.device) -> torch.device:
    """Where fp64 sums are kept: Apple's cards have no fp64."""
    return torch.device("cpu") if device.type == "mps" else device
