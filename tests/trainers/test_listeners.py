"""Listeners: they hear all, and nothing that goes wrong with one is the run's matter."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.errors import ConfigError
from trainers import listeners as module
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.listeners import LISTENERS, Listener, heard, numbers
from trainers.settings.run import LISTENER_NAMES

Make = Callable[..., TrainConfig]

EVENTS = [
    TrainEvent(kind="stage", total=2, message="prepare", data={"stage": "prepare"}),
    TrainEvent(kind="step", step=1, total=2, data={"loss": 0.5, "seconds": 0.1}),
    TrainEvent(
        kind="preview", step=1, total=2, data={"files": ["a.png"], "prompts": ["a fox"], "seeds": [3]}
    ),
    TrainEvent(kind="held_out", step=2, total=2, data={"loss": 0.25}),
    TrainEvent(kind="warning", step=2, total=2, message="small"),
]


class Ear:
    """A listener of its own; fails at the kinds of events it is told to."""

    def __init__(self, config: TrainConfig, fails: str = "") -> None:
        self.heard: list[TrainEvent] = []
        self.fails, self.closed = fails, 0

    def hear(self, event: TrainEvent) -> None:
        self.heard.append(event)
        if event.kind == self.fails:
            raise OSError("no network\nat all")

    def close(self) -> None:
        self.closed += 1
        raise RuntimeError("close fails as well")


def listen(monkeypatch: pytest.MonkeyPatch, **ears: str) -> dict[str, list[Ear]]:
    """Put ears in the place of listeners; returns those that were opened."""
    opened: dict[str, list[Ear]] = {name: [] for name in ears}

    def opener(name: str, fails: str) -> Callable[[TrainConfig], Ear]:
        def open_ear(config: TrainConfig) -> Ear:
            if fails == "open":
                raise ValueError("no key")
            opened[name].append(Ear(config, fails))
            return opened[name][-1]

        return open_ear

    for name, fails in ears.items():
        monkeypatch.setitem(LISTENERS, name, Listener(name.title(), "json", opener(name, fails)))
    return opened


def test_the_settings_names_are_the_tables_keys() -> None:
    assert tuple(LISTENERS) == LISTENER_NAMES


def test_without_listeners_the_events_pass(make_config: Make) -> None:
    assert list(heard(EVENTS, make_config())) == EVENTS


def test_listeners_hear_all_and_are_closed(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = listen(monkeypatch, tensorboard="", wandb="")
    assert list(heard(EVENTS, make_config(listeners=("tensorboard", "wandb")))) == EVENTS
    assert [(ear.heard, ear.closed) for (ear,) in opened.values()] == [(EVENTS, 1), (EVENTS, 1)]


@pytest.mark.parametrize(("fails", "after"), [("open", 0), ("held_out", 4)])
def test_one_that_fails_is_a_warning_and_hears_no_more(
    fails: str, after: int, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = listen(monkeypatch, tensorboard=fails, wandb="")
    told = list(heard(EVENTS, make_config(listeners=("tensorboard", "wandb"))))
    warning = told.pop(after)
    assert told == EVENTS
    assert warning.kind == "warning" and "Tensorboard failed and hears no more" in warning.message
    assert "\n" not in warning.message and (warning.step, warning.total) == (
        EVENTS[max(after - 1, 0)].step,
        2,
    )
    assert opened["wandb"][0].heard == EVENTS and opened["wandb"][0].closed == 1
    assert all(ear.heard == EVENTS[:after] for ear in opened["tensorboard"])


def test_closing_closes_the_run_first(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = listen(monkeypatch, tensorboard="")
    order: list[str] = []

    def training() -> Iterator[TrainEvent]:
        try:
            yield from EVENTS
        finally:
            order.append(f"run closed, {opened['tensorboard'][0].closed} listeners closed")

    told = heard(training(), make_config(listeners=("tensorboard",)))
    next(told)
    told.close()
    assert order == ["run closed, 0 listeners closed"] and opened["tensorboard"][0].closed == 1


@pytest.mark.parametrize("name", LISTENERS)
def test_a_missing_package_is_one_line_before_the_run(
    name: str, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, LISTENERS[name].package, None)

    def training() -> Iterator[TrainEvent]:
        pytest.fail("the run has begun")
        yield EVENTS[0]

    with pytest.raises(
        ConfigError, match=rf'{name} isn.t installed; pip install "pigment-studio\[tracking\]"'
    ):
        next(heard(training(), make_config(listeners=(name,))))


def test_numbers_are_named_by_what_was_measured() -> None:
    assert numbers(EVENTS[1]) == {"train/loss": 0.5, "train/seconds": 0.1}
    assert numbers(EVENTS[3]) == {"held_out/loss": 0.25} and numbers(EVENTS[2]) == {}
    assert numbers(TrainEvent(kind="step", data={"loss": 1, "finite": True, "name": "a"})) == {
        "train/loss": 1.0
    }


def test_wandb_stays_on_this_machine_unless_told(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: dict[str, Any] = {}
    logged: list[Any] = []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    package: Any = types.ModuleType("wandb")
    package.init = lambda **options: said.update(options) or run
    package.Settings = dict
    package.Image = lambda path, caption: (Path(path).name, caption)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = make_config(listeners=("wandb",))
    assert list(heard(EVENTS, config)) == EVENTS
    assert said["mode"] == "offline" and said["dir"] == str(config.run.output)
    assert str(tmp_path) not in str(said["config"])
    assert logged == [
        (1, {"train/loss": 0.5, "train/seconds": 0.1}), (1, {"preview/00": ("a.png", "a fox")}),
        (2, {"held_out/loss": 0.25}),
    ]  # fmt: skip
    monkeypatch.setenv("WANDB_MODE", "online")
    list(heard(EVENTS, config))
    assert said["mode"] == "online"


def test_tensorboard_is_told_numbers_pictures_and_warnings(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, log_dir: str) -> None:
            calls.append(("open", Path(log_dir).name))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def add_image(self, name: str, pixels: Any, step: int, dataformats: str) -> None:
            calls.append((name, pixels.shape, step, dataformats))

        def add_text(self, name: str, text: str, step: int = 0) -> None:
            calls.append((name, "small" in text, step))

        def close(self) -> None:
            calls.append(("close",))

    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer)
    )  # fmt: skip
    config = make_config(listeners=("tensorboard",))
    config.run.output.mkdir()
    Image.new("RGB", (6, 4)).save(config.run.output / "a.png")
    assert list(heard(EVENTS, config)) == EVENTS
    assert calls == [
        ("open", "tensorboard"), ("config", False, 0), ("train/loss", 0.5, 1), ("train/seconds", 0.1, 1),
        ("preview/00 a fox", (4, 6, 3), 1, "HWC"), ("held_out/loss", 0.25, 2), ("warnings", True, 2),
        ("close",),
    ]  # fmt: skip
    assert module.pictures(EVENTS[2], Path("run")) == [(0, Path("run/a.png"), "a fox")]
