"""What suits the machine at hand, by a short trial: attention, layout, and on a CPU bits and threads.

A trial's outcome is kept by machine, versions, base and shapes, and with the run, so that a run that goes
on takes the same and the next one doesn't measure again. Small bases are not tried: there a rule decides,
since a trial would take longer than it could ever save.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipelines.attention import put_attention
from pipelines.errors import ConfigError
from pipelines.files import write_atomic
from pipelines.preparing import lay_convolutions
from trainers import trials
from trainers.memory import check_gradient
from trainers.preparing import resolution_of
from trainers.run_folder import CHOICES_NAME

if TYPE_CHECKING:
    from pipelines.base import Base
    from trainers.config import TrainConfig

SMALLEST = 100_000_000
"""Numbers of a UNet from which on a trial is worth its time."""

_HALF_GAIN = 1.2
"""So much faster 16 bits must be on a CPU to be taken."""
_GAIN = 1.03
"""So much faster anything else must be than what would be taken without a trial: less is chance."""
_THREADS = 4
"""From so many threads on, half of them may be faster: two can share one core's units."""
_TRIED = ("sdpa", "xformers", "flash", "flash3", "native_flash", "native_cudnn", "native_efficient")
"""Kernels of attention that can be trained through, on a card."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was chosen for a run; None leaves it as it is.

    attention: a key of ATTENTION. channels_last: of convolutions' weights. mixed_precision: "bf16" or None.
    threads: of a CPU. said: in one line what was chosen and why; empty where nothing was tried.
    """

    attention: str | None = None
    channels_last: bool | None = None
    mixed_precision: str | None = None
    threads: int | None = None
    said: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell people."""
        return (self.said,) if self.said else ()

    def applied(self, config: TrainConfig) -> TrainConfig:
        """Return a config that asks for what was chosen, for the run alone: what is saved stays as asked."""
        names = ("attention", "channels_last", "mixed_precision", "threads")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        return config.model_copy(update={"run": config.run.model_copy(update=found)}) if found else config

    @contextmanager
    def put_on(self, base: Base) -> Iterator[None]:
        """Let a base compute so for a while."""
        before = torch.get_num_threads()
        with ExitStack() as undo:
            undo.callback(torch.set_num_threads, before)
            if self.attention is not None:
                undo.callback(put_attention(base.unet, self.attention))
            if self.channels_last is not None:
                undo.callback(lay_convolutions(base.unet, self.channels_last))
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            yield


def choose(base: Base, config: TrainConfig, folder: Path, cache: Path, *, writes: bool = True) -> Choices:
    """Choose what the config leaves open: from the run's folder, else from the cache, else by a trial.

    folder: the run's. cache: the folder of caches. writes: whether this is the process that writes. Nothing
    is tried on a small base, and nothing where the config leaves nothing open.
    """
    if sum(p.numel() for p in base.unet.parameters()) < SMALLEST or not _open(base, config):
        return Choices()
    key = _key(base, config)
    places = (folder / CHOICES_NAME, cache / "choices" / f"{key}.json")
    for place in places:
        if (known := _read(place, key)) is not None:
            break
    else:
        known = _tried(base, config)
    for place in places if writes else ():
        _write(place, key, known)
    return known


def _open(base: Base, config: TrainConfig) -> tuple[str, ...]:
    """The settings that the config leaves to the machine, and that can be tried on the base's device."""
    on_cpu, on_card = base.device.type == "cpu", base.device.type == "cuda"
    tried = {
        "attention": on_card,
        "channels_last": on_card,
        "threads": on_cpu and torch.get_num_threads() >= _THREADS,
        # Who asks for fp32 gets it.
        "mixed_precision": on_cpu
        and config.run.precision is None
        and base.unet.dtype == torch.float32
        and trials.has_half_units(),
    }
    return tuple(name for name, can in tried.items() if can and getattr(config.run, name) is None)


def _tried(base: Base, config: TrainConfig) -> Choices:
    """Measure what is open, one setting after the other."""
    side = max(8, resolution_of(base, config) // base.vae_scale_factor)
    trial = trials.Trial(base, config.run.batch_size, side)
    rows: dict[str, Callable[[], tuple[Any, str]]] = {
        "attention": lambda: _attention(base, trial),
        "channels_last": lambda: _layout(base, trial),
        "threads": lambda: _threads(trial),
        "mixed_precision": lambda: _half(trial),
    }
    found: dict[str, Any] = {}
    said = []
    for name in _open(base, config):
        found[name], why = rows[name]()
        said.append(why)
    return Choices(**found, said=f"chosen by a trial: {', '.join(said)}")


def _attention(base: Base, trial: trials.Trial) -> tuple[str, str]:
    """The fastest kernel whose gradient is right."""
    device, dtype = base.device, base.unet.dtype
    now = trials.attention_of(base)
    seconds = {now: trial.attention(now)}
    for name in _TRIED:
        try:
            if name not in seconds:
                check_gradient(name, device, dtype)
                seconds[name] = trial.attention(name)
        except (
            ConfigError,
            RuntimeError,
            NotImplementedError,
            ValueError,
            KeyError,
        ):  # not at this width of a head
            continue
    best = min(seconds, key=lambda name: seconds[name])
    if seconds[now] < _GAIN * seconds[best]:
        best = now
    return best, f"attention {best} ({1e3 * seconds[best]:.2f} ms; {now} {1e3 * seconds[now]:.2f})"


def _layout(base: Base, trial: trials.Trial) -> tuple[bool, str]:
    """Channels last where convolutions gain by it."""
    plain, last = trial.convolutions(False), trial.convolutions(True)
    now = trials.is_channels_last(base)
    chosen = now if max(plain, last) < _GAIN * min(plain, last) else last < plain
    said = f"channels {'last' if chosen else 'first'} ({1e3 * last:.2f} ms last, {1e3 * plain:.2f} first)"
    return chosen, said


def _threads(trial: trials.Trial) -> tuple[int, str]:
    """All threads, or half of them."""
    every = torch.get_num_threads()
    seconds = {every: trial.block()}
    torch.set_num_threads(every // 2)
    try:
        seconds[every // 2] = trial.block()
    finally:
        torch.set_num_threads(every)
    best = min(seconds, key=lambda count: seconds[count])
    if seconds[every] < _GAIN * seconds[best]:
        best = every
    return best, f"{best} of {every} threads"


def _half(trial: trials.Trial) -> tuple[str | None, str]:
    """16 bits where they are clearly faster."""
    plain, half = trial.block(), trial.block(half=True)
    chosen = "bf16" if plain >= _HALF_GAIN * half else None
    return chosen, f"{chosen or 'fp32'} ({1e3 * half:.0f} ms in bf16, {1e3 * plain:.0f} in fp32)"


# ── Kept


def _key(base: Base, config: TrainConfig) -> str:
    """What a trial's outcome depends on, as a checksum."""
    run = config.run
    asked = {
        name: getattr(run, name)
        for name in ("attention", "channels_last", "precision", "mixed_precision", "threads")
    }
    says = {
        "machine": trials.machine(base.device),
        "unet": {name: str(value) for name, value in base.unet.config.items() if not name.startswith("_")},
        "shape": [run.batch_size, resolution_of(base, config), str(base.unet.dtype)],
        "asked": asked,
        "quantised": run.quantise,
    }
    return hashlib.sha256(json.dumps(says, sort_keys=True).encode()).hexdigest()


def _read(place: Path, key: str) -> Choices | None:
    """What was kept, if it is of the same trial and whole."""
    try:
        kept = json.loads(place.read_text())
        said = kept["choices"]
        return Choices(**said) if kept["key"] == key and kept["seal"] == _seal(key, said) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(place: Path, key: str, choices: Choices) -> None:
    """Keep it; where that can't be done the next run tries again."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        said = asdict(choices)
        text = json.dumps({"key": key, "choices": said, "seal": _seal(key, said)}, indent=1)
        write_atomic(place, [text.encode()])
    except OSError:
        return


def _seal(key: str, said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([key, said], sort_keys=True).encode()).hexdigest()
