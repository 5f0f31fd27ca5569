"""What a run will need of its device, counted before it takes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipelines.base import Base
from pipelines.conditioning import Conditioning
from pipelines.device import DTYPES
from pipelines.prompts.encoding import Tokens, encode_numbers
from trainers.batches import Batch, Stream
from trainers.counting.ledger import Ledger, Work
from trainers.counting.repeats import Block, Repeats, repeating
from trainers.counting.twins import META, as_on, weightless
from trainers.objective import Levels, predict, sample_losses, target, weights

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.settings import ObjectiveConfig, OptimizerConfig
    from trainers.tuning import Injection


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one batch asks of the device, and what is held between batches.

    samples: the most in one batch; shape: (h, w) of their latents. tokens: length of the conditioning.
    masked: whether some of it is filled up. half: what autocast takes. trained: text encoders that learn.
    dropping: layers that drop out. numbers: how many learn; beside: bytes for each beside itself: its
    gradient, what the optimizer keeps, an average.
    """

    samples: int
    shape: tuple[int, int]
    tokens: int
    masked: bool = False
    half: torch.dtype | None = None
    trained: frozenset[str] = frozenset()
    dropping: tuple[nn.Module, ...] = ()
    numbers: int = 0
    beside: float = 12.0

    @property
    def held(self) -> int:
        """Bytes that a run holds between batches, beside the base and the adapter's own numbers."""
        return int(self.numbers * self.beside)


def demand_of(
    base: Base,
    config: TrainConfig,
    injection: Injection,
    streams: Sequence[Stream],
    captions: Collection[str],
    processes: int = 1,
) -> Demand:
    """Return what a run asks of each of its processes: the largest batch that its streams can give.

    captions: all that can come.
    """
    from trainers.learning import encoders_learning

    most: dict[tuple[int, int], int] = {}
    for stream in streams:
        for shape in set(stream.cache.shapes):
            most[shape] = most.get(shape, 0) + stream.size
    shape, samples = max(most.items(), key=lambda one: (one[0][0] * one[0][1] * one[1], one))
    tokens, masked = _tokens(base, captions)
    half = config.run.mixed_precision
    drops = config.adapter.dropout or config.adapter.module_dropout
    return Demand(
        samples=-(-samples // processes),
        shape=shape,
        tokens=tokens,
        masked=masked,
        half=None if half is None else DTYPES[half],
        trained=encoders_learning(injection),
        dropping=tuple(one.layer for one in injection.tuned.values()) if drops else (),
        numbers=sum(parameter.numel() for parameter in injection.parameters.values()),
        beside=bytes_beside(config.optimizer),
    )


def _tokens(base: Base, captions: Collection[str]) -> tuple[int, bool]:
    """Return how long the longest caption is in tokens, and whether others are shorter by a chunk."""
    from pipelines.prompts import count_chunks

    chunk = int(getattr(base, base.family.text_encoders[0].tokenizer).model_max_length)
    by_length = sorted(captions, key=len)
    most = count_chunks(base, by_length[-1:])
    return chunk * most, most > 1 and count_chunks(base, by_length[:1]) < most


def bytes_beside(config: OptimizerConfig) -> float:
    """Return the bytes that a number takes beside itself: gradient, optimizer, average.

    By one step of a small matrix; 12 where the optimizer can't take it (AdamW's, the most that is usual).
    """
    from trainers.optimizers import build_optimizer

    average = 4.0 if config.ema_decay else 0.0
    tried = nn.Parameter(torch.zeros(64, 128))
    tried.grad = torch.ones_like(tried)
    try:
        optimizer = build_optimizer([{"params": [tried], "lr": 1e-4}], config)
        optimizer.step()
    except Exception:  # a trial: whatever is wrong is said where the optimizer is made for the run
        return 12.0 + average
    kept = [value for value in optimizer.state[tried].values() if isinstance(value, torch.Tensor)]
    return 4.0 + average + sum(value.nbytes for value in kept) / tried.numel()


@dataclass(frozen=True)
class Needs:
    """What a step needs. peak: bytes alive at most; kept: those at the backward pass's start; work: done."""

    peak: int
    kept: int
    work: Work


class Trial:
    """A base's training step on tensors without memory, to be asked what it needs as its blocks are now.

    Made inside `trial`.
    """

    def __init__(self, base: Base, demand: Demand, levels: Levels, objective: ObjectiveConfig) -> None:
        self._base, self.demand = replace(base, device=META), demand
        self._levels, self._objective = levels, objective
        self._card = base.device.type != "cpu"
        self._ledger = Ledger()
        self.repeats = Repeats(self._ledger, repeating(_networks(base, demand)))

    def step(self) -> Needs:
        """Run a batch's forward and backward pass, as the loop does."""
        ledger, demand = self._ledger, self.demand
        ledger.work, batch = Work(), _batch(demand, int(self._base.unet.config["in_channels"]))
        running = as_on(card=self._card, half=demand.half)
        with ledger, self.repeats.standing_in(), running as self.repeats.mode:
            begun = ledger.forget_peak()
            told = _told(self._base, demand)
            loss = batch_loss(self._base, self._levels, batch, told, self._objective)
            kept = ledger.live - begun
            with self.repeats.mode.wide():
                loss.backward()
            del loss, told
            return Needs(ledger.peak - begun, kept, ledger.work)

    def found(self) -> dict[int, Block]:
        """Return what was found of each block in the last step, by its `id`."""
        return dict(self.repeats.found)


def batch_loss(
    base: Base, levels: Levels, batch: Batch, told: Conditioning, objective: ObjectiveConfig
) -> torch.Tensor:
    """Return a batch's loss as the loop computes it."""
    predicted = predict(base, levels, batch.latents, batch.input_noise, batch.timesteps, told, batch.frames)
    aim = target(levels, batch.latents, batch.noise, batch.timesteps)
    each = sample_losses(predicted, aim, batch.mask, levels, batch.timesteps, objective)
    return (each * batch.share * weights(levels, batch.timesteps, objective)).sum()


@contextmanager
def trial(base: Base, demand: Demand, levels: Levels, objective: ObjectiveConfig) -> Iterator[Trial]:
    """Hold tensors without memory in the place of what a step uses, for a while."""
    with ExitStack() as held:
        for network in _networks(base, demand):
            # Hooks that fetch a part to the device have nothing to fetch.
            _hook(held, network, "_forward_pre_hooks", {})
            for module in network.modules():
                if isinstance(module, nn.Embedding) and module._forward_hooks:  # learned words
                    _hook(held, module, "_forward_hooks", {0: _learned})
        for layer in demand.dropping:  # what it stands for is let be
            for module in (layer, *(one for name, one in layer.named_children() if name != "base_layer")):
                held.callback(module.train, module.training)
                module.train()
        held.enter_context(weightless(_networks(base, demand)))
        yield Trial(base, demand, levels, objective)


def _hook(held: ExitStack, module: nn.Module, kind: str, hooks: dict[int, Any]) -> None:
    """Let a module have other hooks until `held` is closed."""
    held.callback(module.__dict__.update, {kind: module.__dict__[kind]})
    module.__dict__[kind] = hooks


def _learned(module: nn.Module, inputs: Any, answer: torch.Tensor) -> torch.Tensor:
    """Answer as something that is learned."""
    return answer + torch.empty((), dtype=answer.dtype, device=META, requires_grad=True)


def _networks(base: Base, demand: Demand) -> list[nn.Module]:
    """Return what a step runs: the UNet, and the text encoders where one of them learns."""
    encoders = base.text_encoders() if demand.trained else {}
    return [base.unet, *(base.component(name) for name in encoders)]


def _batch(demand: Demand, channels: int) -> Batch:
    """Return a batch without numbers."""
    count, (height, width) = demand.samples, demand.shape
    noise = torch.empty(count, channels, height, width, device=META)
    return Batch(
        latents=torch.empty_like(noise),
        noise=noise,
        input_noise=noise,
        timesteps=torch.empty(count, dtype=torch.long, device=META),
        share=torch.empty(count, device=META),
        mask=None,
        frames=torch.empty(count, 6, dtype=torch.long, device=META),
        captions=("",) * count,
        streams=(0,) * count,
    )


def _told(base: Base, demand: Demand) -> Conditioning:
    """Return what the UNet is told: encoded where a text encoder learns, else as from the cache."""
    count, rows = demand.samples, base.family.text_encoders
    mask = torch.empty(count, demand.tokens, dtype=torch.bool, device=META) if demand.masked else None
    if demand.trained:
        chunk = int(getattr(base, rows[0].tokenizer).model_max_length)
        runs = [torch.empty(count, chunk, dtype=torch.long, device=META)] * (demand.tokens // chunk)
        told = encode_numbers(base, Tokens({row.component: runs for row in rows}, len(runs)))
        return replace(told, mask=mask)
    config: Any = base.unet.config
    encoders: Any = [base.component(row.component) for row in rows]
    hidden = torch.empty(
        count, demand.tokens, int(config["cross_attention_dim"]), dtype=encoders[0].dtype, device=META
    )
    pooled = None
    if base.family.pooled:
        pooled = torch.empty(count, encoders[-1].config.projection_dim, dtype=encoders[-1].dtype, device=META)
    return Conditioning(hidden, pooled, mask)
