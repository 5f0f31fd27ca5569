"""Choosing what is recomputed in a run: as little as lets it fit on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipelines.base import Base
from pipelines.placement import GIB
from trainers.counting.demand import Demand, Trial, demand_of, trial
from trainers.objective import Levels
from trainers.recomputing import modules_of, recomputed
from trainers.settings import ObjectiveConfig

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.preparing import Prepared
    from trainers.tuning import Injection

# Room that a prediction leaves: what products take for themselves and the allocator can't hand out on a card,
# a share of what is predicted, and of a machine's memory what others may want.
_WORKING, _SHARE, _OTHERS = int(0.35 * GIB), 0.04, 0.1
# Activations are some 400 numbers per position and channel; where four times that fits, nothing is counted.
_AMPLE = 1600
_ROUNDS = 8
_TILES = 512 * 2**20


@dataclass(frozen=True)
class Fit:
    """What is to be recomputed. modules: in the base. needed: bytes beside what is on the device, None where
    they weren't counted. notes: what people should know."""

    modules: tuple[nn.Module, ...] = ()
    needed: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Option:
    """A module that can be recomputed. bytes: saved by it; flops: its cost; instead: of a part of it."""

    module: nn.Module
    bytes: int
    flops: int
    instead: nn.Module | None = None

    @property
    def worth(self) -> float:
        return self.bytes / max(1, self.flops)


def fit_run(
    base: Base, config: TrainConfig, injection: Injection, prepared: Prepared, levels: Levels, processes: int
) -> Fit:
    """Return what `fit` does for a run of so many processes, as it stands before its first step."""
    demand = demand_of(base, config, injection, prepared.streams, prepared.captions, processes)
    room = room_on(base.device)
    if room is not None and base.device.type == "cpu":
        room //= processes  # they share it
        room -= 0 if "frozen" in config.run.without else _copies(base)
    if room is not None:
        learning = [one for name in demand.trained for one in base.component(name).parameters()]
        room -= sum(one.nbytes for one in learning if one.device != base.device)  # they are to come
    return fit(base, demand, levels, config.objective, room)


def _copies(base: Base) -> int:
    """Return the bytes that convolutions which are computed in one piece may keep on a CPU: see `frozen`.

    Their weights laid out anew for both ways, and what Winograd's products are given at most.
    """
    weights = (module.weight.nbytes for module in base.unet.modules() if isinstance(module, nn.Conv2d))
    return 2 * sum(weights) + _TILES


def fit(
    base: Base, demand: Demand, levels: Levels, objective: ObjectiveConfig, room: int | None = None
) -> Fit:
    """Return the fewest modules, cheapest first, whose recomputing lets a run fit into `room`.

    room: bytes; None: what `room_on` says of the base's device. Cheapest is what saves the most bytes per
    FLOP that is computed again: as a rule feed-forward layers first, then blocks at the largest size. Where
    the run fits by far, or the device doesn't tell, nothing is counted. The numbers are counted on tensors
    without memory, so that this takes none; where that fails, all is recomputed.
    """
    room = room_on(base.device) if room is None else room
    if room is None or _roughly(base, demand) + demand.held <= room:
        return Fit()
    room -= _WORKING if base.device.type != "cpu" else 0
    try:
        with trial(base, demand, levels, objective) as tried:
            return _fitted(base, tried, room)
    except Exception as error:
        # Layers of libraries may ask for numbers, which tensors without memory haven't. The run may yet do.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".")
        modules = modules_of(base, "all", demand.trained)
        note = (
            f"the memory this run needs can't be counted ({reason}), so all {len(modules)} blocks are "
            "computed a second time; where there is room, set run.gradient_checkpointing to 'none'"
        )
        return Fit(tuple(modules), notes=(note,))


def _fitted(base: Base, tried: Trial, room: int) -> Fit:
    def needed() -> int:
        return int(tried.step().peak * (1 + _SHARE)) + tried.demand.held

    most = needed()
    if most <= room:
        return Fit(needed=most)
    waiting, chosen = _options(base, tried), dict[int, nn.Module]()
    for _ in range(_ROUNDS):
        excess = most - room
        while waiting and excess > 0:
            option = waiting.pop(0)
            chosen[id(option.module)] = option.module
            if option.instead is not None:
                chosen.pop(id(option.instead), None)
            excess -= option.bytes
        with recomputed(list(chosen.values())):
            most = needed()
        if most <= room or not waiting:
            break
    if most > room:
        modules = modules_of(base, "all", tried.demand.trained)
        with recomputed(modules):
            most = needed()
        return _all(modules, most, room)
    blocks = len(tried.repeats.blocks)
    note = (
        f"{len(chosen)} of {blocks} blocks, or parts of them, are computed a second time to save memory: "
        f"{_gib(most)} are needed beside the base, {_gib(room)} are there"
    )
    return Fit(tuple(chosen.values()), most, (note,))


def _all(modules: Sequence[nn.Module], most: int, room: int) -> Fit:
    fits = "" if most <= room else "; it may not fit: lower run.batch_size, data.resolution or adapter.rank"
    note = (
        f"all {len(modules)} blocks are computed a second time to save memory: {_gib(most)} are needed "
        f"beside the base, {_gib(max(0, room))} are there{fits}"
    )
    return Fit(tuple(modules), most, (note,))


def _options(base: Base, tried: Trial) -> list[_Option]:
    """Return what can be recomputed, what saves the most per FLOP first.

    What a block's feed-forward layer alone is worth is seen in a second trial, in which all are recomputed.
    Blocks that don't get gradients keep nothing, and are left out.
    """
    whole = tried.found()
    feeding = {id(block): getattr(block, "ff", None) for block in tried.repeats.blocks}
    with recomputed([ff for ff in feeding.values() if ff is not None]):
        tried.step()
    parts, options = tried.found(), []
    for block in tried.repeats.blocks:
        found, ff = whole.get(id(block)), feeding[id(block)]
        if found is None or not found.kept:
            continue
        every = _Option(block, found.saved, found.forward.flops)
        if ff is None:
            options.append(every)
            continue
        part = parts[id(block)]
        first = _Option(ff, found.kept - part.kept, part.backward.flops - found.backward.flops)
        rest = _Option(block, every.bytes - first.bytes, every.flops - first.flops, instead=ff)
        options += [first, rest] if first.worth > rest.worth else [every]
    return sorted((one for one in options if one.bytes > 0), key=lambda one: -one.worth)


def room_on(device: torch.device) -> int | None:
    """Return the bytes that a run can still take on a device; None where it doesn't tell.

    On a card that is what is free there and what PyTorch holds unused, within the share that this process was
    given; on a CPU the machine's available memory but for a tenth.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        free, total = torch.cuda.mem_get_info(device)
        share = torch.cuda.get_per_process_memory_fraction(device)
        unused = torch.cuda.memory_reserved(device) - held
        return max(0, min(free + unused, int(total * share) - held))
    if device.type == "cpu":
        import psutil  # type: ignore[import-untyped]

        return int(psutil.virtual_memory().available * (1 - _OTHERS))
    return None


def _roughly(base: Base, demand: Demand) -> int:
    """Return more bytes than a batch's activations take in any usual UNet."""
    height, width = demand.shape
    channels = int(base.unet.config["block_out_channels"][0])
    size = torch.finfo(demand.half or base.unet.dtype).bits // 8
    per_sample = height * width * channels * _AMPLE * size
    # A text encoder that learns: some 40 numbers per token and channel in each layer.
    for name in demand.trained:
        config: Any = base.component(name).config
        per_sample += demand.tokens * config.hidden_size * config.num_hidden_layers * 160 * size
    return demand.samples * per_sample


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
