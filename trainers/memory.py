"""What a training needs of a device, and the ways to need less.

Recomputing parts of the forward pass, the VAE and text encoders off the device between uses, a kernel
for attention whose gradient is right; the peak as it was, and words for when it was too much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipelines.base import Base
from pipelines.errors import ConfigError, StudioError
from pipelines.exhausted import device_lost, first_line, lost_line, out_of_memory
from pipelines.placement import Placement
from trainers.recomputing import CHECKPOINTING as CHECKPOINTING
from trainers.recomputing import modules_of, recomputed
from trainers.settings import RunConfig

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.fitting import Fit

# ── Recomputing


@contextmanager
def checkpointing(
    base: Base,
    mode: str,
    trained: Collection[str] = (),
    fit: Callable[[], Fit] | None = None,
) -> Iterator[tuple[str, ...]]:
    """Compute parts of UNet and trained text encoders again in the backward pass, for a while.

    mode: "auto" or a key of CHECKPOINTING. trained: component names of the text encoders that learn; their
    layers are recomputed under "all". fit: says under "auto" what is to be recomputed for this run to fit
    (see `trainers.fitting.fit`); without it nothing is. The gradients are those without it.
    Yields: what people should know of what was chosen.
    """
    if mode == "auto":
        found = None if fit is None else fit()
        modules, notes = ([], ()) if found is None else (list(found.modules), found.notes)
    else:
        modules, notes = modules_of(base, mode, trained), ()
    with recomputed(modules):
        yield notes


# ── Where the parts are


def placement(run: RunConfig, device: torch.device, dtype: torch.dtype) -> Placement:
    """Say how a base is to be put on a device in order to train there.

    dtype: that attention computes in. Raises: ConfigError for a kernel of attention that has no right
    gradient.
    """
    if run.attention is not None:
        check_gradient(run.attention, device, dtype)
    offload = run.offload or ("none" if device.type in ("cpu", "mps") else "parts")
    return Placement(
        attention=run.attention, channels_last=run.channels_last, offload=offload, quantise=run.quantise
    )


def check_gradient(attention: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raises: ConfigError where a kernel doesn't run here, or can't be trained through."""
    from diffusers.models import attention_dispatch
    from torch.nn import functional

    from pipelines.attention import ATTENTION, check_attention

    check_attention(attention, device, dtype)
    backend = ATTENTION[attention].backend
    if backend is None:
        return
    made = torch.Generator().manual_seed(0)
    numbers = [torch.randn(1, 64, 2, 64, generator=made).to(device, dtype) for _ in range(4)]
    towards = numbers.pop()
    try:
        q, k, v = (x.clone().requires_grad_() for x in numbers)
        out = attention_dispatch.dispatch_attention_fn(
            q, k, v, backend=attention_dispatch.AttentionBackendName(backend)
        )
        found = torch.autograd.grad(out, (q, k, v), towards)
    except (RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"run.attention: {attention!r} has no gradient ({first_line(error)}), so nothing can learn "
            f"through it; choose 'sdpa'"
        ) from error
    q, k, v = (x.float().requires_grad_() for x in numbers)
    turned = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    exact = torch.autograd.grad(turned.transpose(1, 2), (q, k, v), towards.float())
    wrong = max(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    if not wrong < 0.1:
        raise ConfigError(
            f"run.attention: the gradient of {attention!r} differs from the exact one by {wrong:.0%} on "
            f"{device}; choose 'sdpa'"
        )


@contextmanager
def parked(base: Base, trained: Collection[str]) -> Iterator[None]:
    """Keep the text encoders that learn on the device, where a base is under offload "parts".

    The VAE and the other text encoders go on visiting it only while they work (see `pipelines.offload`),
    for pictures in between too. Afterwards all parts are as they were.
    """
    from pipelines.preparing import offloaded

    offload = offloaded(base)
    staying = [name for name in base.text_encoders() if name in trained]
    if offload is None or not staying:
        yield
        return
    visiting = [name for name in (*base.text_encoders(), "vae") if name not in staying]
    homes = {name: next(base.component(name).parameters()).device for name in staying}
    offload.remove()
    for name in visiting:
        offload.add_whole(base.component(name))
    for name in staying:
        base.component(name).to(base.device)
    try:
        yield
    finally:
        offload.remove()
        for name in staying:
            base.component(name).to(homes[name])
        for name in (*base.text_encoders(), "vae"):
            offload.add_whole(base.component(name))


# ── How much it was


class Peak:
    """The most memory in use since this was made, in bytes.

    On a card what PyTorch had allocated there. On a CPU how far the process has grown: other memory
    than this training's counts too, and what was there before doesn't.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _forget_peak()
            self._began = self._most = _resident()

    def bytes(self) -> int:
        """Bytes at the peak so far."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        self._most = max(self._most, _resident(), _resident_peak() or 0)
        return self._most - self._began


def _resident() -> int:
    import psutil  # type: ignore[import-untyped]

    return int(psutil.Process().memory_info().rss)


def _forget_peak() -> None:
    """Let Linux count the process's peak from now on; elsewhere the samples must do."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _resident_peak() -> int | None:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return None if found is None else 1024 * int(found.group(1))


# ── When it was too much


@contextmanager
def explained(config: TrainConfig, doing: str = "learn") -> Iterator[None]:
    """Turn a full memory into a StudioError that says what to lower, a failed device into one that says so.

    doing: what for, a key of `ADVICE`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if device_lost(error):
            raise StudioError(lost_line(error)) from error
        if not out_of_memory(error):
            raise
        said = ADVICE[doing](config)
        raise StudioError(f"out of memory; {said}, then run again to go on") from error


def advice(config: TrainConfig) -> str:
    """Say what to lower next, the cheapest first; at most three things."""
    run, found = config.run, []
    if run.gradient_checkpointing != "all":
        more = "selective" if run.gradient_checkpointing == "none" else "all"
        found.append(f"set run.gradient_checkpointing to {more!r}")
    if run.batch_size > 1:
        half = run.batch_size // 2
        found.append(f"lower run.batch_size to {half} with run.accumulate {run.accumulate * 2}")
    if run.offload == "none":
        found.append("set run.offload to 'parts'")
    if run.precision == "fp32":
        found.append("set run.precision to 'bf16'")
    if run.quantise is None:
        found.append("hold the base in fewer bits (run.quantise 'int8')")
    found.append("lower data.resolution or adapter.rank")
    return ", or ".join(found[:3])


def _to_load(config: TrainConfig) -> str:
    """What to do where the base itself is too large."""
    run, found = config.run, ["close other programs"]
    if run.offload in (None, "none"):
        found.append("set run.offload to 'parts'")
    if run.quantise is None:
        found.append("hold the base in fewer bits (run.quantise 'int8')")
    return ", or ".join(found)


def _to_draw(config: TrainConfig) -> str:
    """What to lower where the base draws."""
    found = ["lower data.resolution"]
    if config.run.quantise is None:
        found.append("hold the base in fewer bits (run.quantise 'int8')")
    return ", or ".join([*found, "give pictures of your own (data.class_images)"])


ADVICE: dict[str, Callable[[TrainConfig], str]] = {
    "learn": advice,
    "load": lambda config: f"loading the base takes it; {_to_load(config)}",
    "encode": lambda config: f"pictures are being read; lower data.resolution, or {_to_load(config)}",
    "draw": _to_draw,
    "save": lambda config: "the adapter is being written; close other programs, or lower adapter.rank",
}
"""By what is done when the memory is full: what to do about it."""
