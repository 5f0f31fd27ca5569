"""Others that are told how a run goes: TensorBoard, Weights & Biases.

They only listen: one that fails is dropped with a warning, and none is asked anything.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.errors import ConfigError
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.run_folder import TENSORBOARD


class Hearer(Protocol):
    """What a listener's `open` returns."""

    def hear(self, event: TrainEvent) -> None:
        """Take in an event; may raise anything."""

    def close(self) -> None:
        """The run has ended; may raise anything."""


@dataclass(frozen=True)
class Listener:
    """One kind of listener. package: what is imported; it comes with the extra "tracking"."""

    label: str
    package: str
    open: Callable[[TrainConfig], Hearer]


class TensorBoard:
    """Writes numbers and previews to `run.output`/tensorboard; look with `tensorboard --logdir`."""

    def __init__(self, config: TrainConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = config.run.output
        writer: Any = SummaryWriter  # untyped
        self._writer = writer(log_dir=str(self._folder / TENSORBOARD))
        self._writer.add_text("config", f"    {config.as_json()}".replace("\n", "\n    "))

    def hear(self, event: TrainEvent) -> None:
        """Add an event's numbers and pictures at its step."""
        for name, value in numbers(event).items():
            self._writer.add_scalar(name, value, event.step)
        for index, path, prompt in pictures(event, self._folder):
            import numpy as np
            from PIL import Image

            with Image.open(path) as opened:
                pixels = np.asarray(opened.convert("RGB"))
            self._writer.add_image(
                f"preview/{index:02d} {prompt}"[:200], pixels, event.step, dataformats="HWC"
            )
        if event.kind == "warning":
            self._writer.add_text("warnings", event.message, event.step)

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


class WeightsAndBiases:
    """Keeps a W&B run in the run folder: on this machine alone, unless WANDB_MODE says "online"."""

    def __init__(self, config: TrainConfig) -> None:
        import wandb

        config.run.output.mkdir(parents=True, exist_ok=True)
        self._wandb, self._folder = wandb, config.run.output
        self._run = wandb.init(
            project="pigment",
            name=config.adapter_name,
            dir=str(self._folder),
            config=config.public(),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off"),  # the console is the run's own
        )

    def hear(self, event: TrainEvent) -> None:
        """Log an event's numbers and pictures at its step."""
        said: dict[str, Any] = dict(numbers(event))
        for index, path, prompt in pictures(event, self._folder):
            said[f"preview/{index:02d}"] = self._wandb.Image(str(path), caption=prompt)
        if said:
            self._run.log(said, step=event.step)

    def close(self) -> None:
        """Close the run."""
        self._run.finish()


LISTENERS: dict[str, Listener] = {
    "tensorboard": Listener("TensorBoard", "tensorboard", TensorBoard),
    "wandb": Listener("Weights & Biases", "wandb", WeightsAndBiases),
}


def numbers(event: TrainEvent) -> dict[str, float]:
    """What an event measures, by name: "train/loss", "held_out/loss" …; empty for other kinds."""
    room = {"step": "train", "held_out": "held_out"}.get(event.kind)
    if room is None:
        return {}
    return {
        f"{room}/{name}": float(value)
        for name, value in event.data.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def pictures(event: TrainEvent, folder: Path) -> list[tuple[int, Path, str]]:
    """The pictures of a preview: number, file, prompt."""
    if event.kind != "preview":
        return []
    files, prompts = event.data["files"], event.data["prompts"]
    return [(i, folder / file, prompt) for i, (file, prompt) in enumerate(zip(files, prompts, strict=False))]


def heard(training: Iterable[TrainEvent], config: TrainConfig) -> Generator[TrainEvent, None, None]:
    """Pass on a run's events, telling each to the listeners of its config after it was taken.

    Listeners open with the first event, when the run has refused what it refuses; their packages are
    looked for before. Closing this closes the run first.

    Raises: ConfigError, before the run begins, where a listener's package is missing.
    """
    check(config.run.listeners)
    hearers: dict[str, Hearer] | None = None
    running = iter(training)
    try:
        for event in running:
            if hearers is None:
                hearers = {}
                yield from _opened(config, hearers, event)
            yield event
            yield from _told(hearers, event)
    finally:
        if (close := getattr(running, "close", None)) is not None:
            close()
        for hearer in (hearers or {}).values():
            with suppress(Exception):
                hearer.close()


def check(names: Iterable[str]) -> None:
    """Raises: ConfigError for a listener whose package isn't there, or doesn't load."""
    for name in names:
        try:
            importlib.import_module(LISTENERS[name].package)
        except Exception as error:  # a broken package raises more than ImportError
            missing = isinstance(error, ImportError)
            why = "isn't installed" if missing else f"doesn't load ({_first_line(error)})"
            raise ConfigError(
                f"run.listeners: {LISTENERS[name].package} {why}; "
                f'pip install "pigment-studio[tracking]", or leave {name!r} out'
            ) from error


def _opened(config: TrainConfig, hearers: dict[str, Hearer], first: TrainEvent) -> Iterator[TrainEvent]:
    for name in config.run.listeners:
        try:
            hearers[name] = LISTENERS[name].open(config)
        except Exception as error:  # whatever another's package makes of a full disk or a missing key
            yield _dropped(name, error, first)


def _told(hearers: dict[str, Hearer], event: TrainEvent) -> Iterator[TrainEvent]:
    for name in list(hearers):
        try:
            hearers[name].hear(event)
        except Exception as error:
            del hearers[name]
            yield _dropped(name, error, event)


def _dropped(name: str, error: Exception, event: TrainEvent) -> TrainEvent:
    why = f"{LISTENERS[name].label} failed and hears no more ({_first_line(error)})"
    return TrainEvent(kind="warning", step=event.step, total=event.total, message=why)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}" if text else type(error).__name__
