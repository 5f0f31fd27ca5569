"""The processes of one run: how they share a step's work, and speak with one voice.

All processes draw the same global step from the same generators; each learns from its share of the
samples, and the gradients are summed. One process alone needs none of it, nor accelerate.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, StudioError

if TYPE_CHECKING:
    import torch

    from trainers.batches import Batch

BUCKET_BYTES = 32_000_000
"""Gradients that travel together."""

# Class pictures are made by one process while the others wait.
_PATIENCE = timedelta(hours=24)


@dataclass(frozen=True, eq=False)
class Processes:
    """This process among those of a run.

    rank: its number, from 0. size: how many there are. device: where it learns; None is the config's.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None

    @property
    def main(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def check_batch(self, batch_size: int) -> None:
        """Raises: ConfigError where a step has fewer samples than there are processes."""
        if batch_size < self.size:
            raise ConfigError(
                f"run.batch_size: got {batch_size} for {self.size} processes, expected at least one picture "
                f"each; use {self.size} or start fewer processes"
            )

    def part(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return this process's share of each batch: every `size`-th sample, from number `rank` on.

        A batch of so few samples that none is this one's is left out.
        """
        if self.size == 1:
            return list(batches)
        rows = [range(self.rank, len(batch), self.size) for batch in batches]
        return [batch.take(mine) for batch, mine in zip(batches, rows, strict=True) if len(mine)]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum every parameter's gradient over the processes, in flat buckets.

        A parameter without a gradient counts as zero, so that all processes send the same; where no
        process has one, it stays without.
        """
        if self.size == 1:
            return
        import torch

        learning = [p for p in parameters if p.requires_grad]
        has = torch.tensor([float(p.grad is not None) for p in learning], device=learning[0].device)
        self._reduce(has)
        having = [p for p, count in zip(learning, has.tolist(), strict=True) if count]
        for bucket in _buckets(having):
            flat = torch.cat(
                [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in bucket]
            )
            self._reduce(flat)
            parts = flat.split([p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the processes; the tensor given stays as it is."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        self._reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process. All of them must ask."""
        if self.size == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def check_same_step(self, step: int) -> None:
        """Raises: StudioError where the processes go on from different steps. All of them must ask."""
        if self.size == 1:
            return
        import torch

        first = torch.tensor([step], dtype=torch.long, device=self.device)
        self.copy_from_main([first])
        if self.any(int(first) != step):
            raise StudioError(
                f"process {self.rank} goes on from step {step}, the first one from {int(first)}; run.output "
                f"and run.cache must be folders that all processes see"
            )

    def copy_from_main(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the first one's numbers, in place."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        with torch.no_grad(), self._spoken():
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def wait(self) -> None:
        """Return when every process has come here."""
        self.any(False)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the first process go through a block before the others do, who find what it has written."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def _reduce(self, tensor: torch.Tensor) -> None:
        import torch.distributed as dist

        with self._spoken():
            dist.all_reduce(tensor)

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Say which process has ended where a collective fails because of that."""
        try:
            yield
        except RuntimeError as error:
            raise Abandoned(_failure(), error) from error


ALONE = Processes()


class Abandoned(StudioError):
    """Another process of the run has ended; said: whether it has told why."""

    def __init__(self, why: str | None, error: Exception) -> None:
        self.said = why is not None
        super().__init__(why or f"another process has ended ({_first_line(error)}); run again to go on")


@contextmanager
def joined(device: str | None = None) -> Iterator[Processes]:
    """Be one of the processes that a launcher has started; ALONE where there is none.

    device: `run.device`. With several processes on cards each takes its own, so a card's number is
    refused. Under torchrun or accelerate launch. Once more inside of it gives the same; who has joined
    first leaves at the end.

    Raises: ConfigError for a device that several processes can't share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE
        return
    if device is not None and ":" in device:
        kind = device.split(":", 1)[0]
        raise ConfigError(
            f"run.device: got {device!r} for several processes, expected a kind of device, since each takes "
            f"its own; use {kind!r} or leave it out"
        )
    import torch.distributed as dist
    from accelerate import PartialState

    ours = not dist.is_initialized()
    state = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    try:
        place = "cpu" if state.device.type == "cpu" else str(state.device)
        yield Processes(state.process_index, state.num_processes, place)
    finally:
        if ours:  # else who made the group, a caller of this or a launcher, goes on with it
            PartialState._reset_state()
            dist.destroy_process_group()


def report(error: StudioError) -> bool:
    """Tell the other processes that this one ends with an error; whether it is the one to print it.

    Of several that fail together the first prints; one that is only left behind does where nobody else can.
    """
    if isinstance(error, Abandoned) and error.said:
        return False
    try:
        store = _store()
        if store is None:
            return True
        if store.add("failures", 1) != 1:
            return False
        store.set("failure", str(error).encode())
    except RuntimeError:  # the process that held the store is the one that ended
        return True
    return True


def _store() -> Any:
    """What the processes of a run share besides tensors; None where there is one process."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    from torch.distributed import PrefixStore
    from torch.distributed.distributed_c10d import _get_default_store

    return PrefixStore("pigment", _get_default_store())


def _failure() -> str | None:
    """What another process has said it ends with."""
    try:
        store = _store()
        if store is None or not store.check(["failure"]):
            return None
        return str(store.get("failure").decode())
    except RuntimeError:  # the process that held the store is the one that ended
        return None


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Parameters in groups of one device and about BUCKET_BYTES."""
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size >= BUCKET_BYTES or parameter.device != bucket[0].device):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += 4 * parameter.numel()
    if bucket:
        yield bucket


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:120].rstrip(".") if text else type(error).__name__
