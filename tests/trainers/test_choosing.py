"""What suits the machine is found out once, kept, and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from pipelines.attention import put_attention
from pipelines.base import Base
from pipelines.errors import ConfigError
from trainers import choosing, trials
from trainers.choosing import CHOICES_NAME, Choices, choose
from trainers.config import TrainConfig

Make = Callable[..., TrainConfig]


class Watch:
    """A trial whose times are given: of kernels of attention, layouts, threads and bits."""

    attention_seconds: ClassVar[dict[str, float]] = {}
    layouts: ClassVar[dict[bool, float]] = {True: 1.0, False: 1.0}
    halves: ClassVar[dict[bool, float]] = {True: 1.0, False: 1.0}
    threads: ClassVar[dict[int, float]] = {}
    made: ClassVar[list[tuple[int, int]]] = []

    def __init__(self, base: Base, batch: int, side: int) -> None:
        Watch.made.append((batch, side))

    def attention(self, name: str) -> float:
        if name not in Watch.attention_seconds:
            raise RuntimeError("no kernel for heads of this width")
        return Watch.attention_seconds[name]

    def convolutions(self, last: bool) -> float:
        return Watch.layouts[last]

    def block(self, half: bool = False) -> float:
        return Watch.threads.get(torch.get_num_threads(), 1.0) * Watch.halves[half]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Watch]]:
    """Trials on every base, without their time; a CPU's with units for 16 bits and four threads."""
    monkeypatch.setattr(choosing, "SMALLEST", 1)
    monkeypatch.setattr(choosing.trials, "Trial", Watch)
    monkeypatch.setattr(choosing.trials, "has_half_units", lambda: True)
    monkeypatch.setattr(choosing.trials, "machine", lambda device: [device.type])
    for name in ("attention_seconds", "layouts", "halves", "threads"):
        monkeypatch.setattr(Watch, name, dict(getattr(Watch, name)))
    monkeypatch.setattr(Watch, "made", [])
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield Watch
    torch.set_num_threads(before)


@pytest.fixture
def config(make_config: Make) -> TrainConfig:
    return make_config(threads=None)


def on_a_card(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    base.device = torch.device("cuda")
    monkeypatch.setattr(choosing, "check_gradient", refuse_flash)


def refuse_flash(name: str, device: torch.device, dtype: torch.dtype) -> None:
    if "flash" in name:
        raise ConfigError(f"{name} has no gradient")


def test_a_small_base_is_not_tried(tiny_base: Base, config: TrainConfig, tmp_path: Path) -> None:
    assert choose(tiny_base, config, tmp_path / "run", tmp_path / "cache") == Choices()
    assert not (tmp_path / "cache").exists()
    assert Choices().notes == ()
    assert Choices().applied(config) is config


@pytest.mark.parametrize(("half", "chosen"), [(0.5, "bf16"), (0.84, None)])
def test_a_cpu_takes_16_bits_only_where_they_are_clearly_faster(
    watch: type[Watch], tiny_base: Base, config: TrainConfig, tmp_path: Path, half: float, chosen: str | None
) -> None:
    watch.halves[True] = half
    found = choose(tiny_base, config, tmp_path, tmp_path)
    assert found.mixed_precision == chosen
    assert (found.attention, found.channels_last) == (None, None)  # nothing to choose from on a CPU
    assert found.applied(config).run.mixed_precision == chosen
    assert watch.made == [(config.run.batch_size, 8)]


def test_who_asks_for_32_bits_gets_them(
    watch: type[Watch], tiny_base: Base, config: TrainConfig, make_config: Make, tmp_path: Path
) -> None:
    watch.halves[True] = 0.5
    asked = make_config(threads=None, precision="fp32")
    assert choose(tiny_base, config, tmp_path, tmp_path).mixed_precision == "bf16"
    assert choose(tiny_base, asked, tmp_path, tmp_path).mixed_precision is None


def test_half_the_threads_where_they_are_faster(
    watch: type[Watch], tiny_base: Base, config: TrainConfig, tmp_path: Path
) -> None:
    watch.threads |= {4: 1.0, 2: 0.8}
    found = choose(tiny_base, config, tmp_path / "a", tmp_path / "a")
    assert found.threads == 2
    assert torch.get_num_threads() == 4
    with found.put_on(tiny_base):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4
    watch.threads[2] = 0.99  # chance
    assert choose(tiny_base, config, tmp_path / "b", tmp_path / "b").threads == 4


def test_what_is_asked_for_is_not_tried(
    watch: type[Watch], tiny_base: Base, make_config: Make, tmp_path: Path
) -> None:
    asked = make_config(threads=3, mixed_precision="bf16")
    assert choose(tiny_base, asked, tmp_path / "run", tmp_path) == Choices()
    assert watch.made == []


def test_a_card_takes_the_fastest_kernel_that_can_be_trained_through(
    watch: type[Watch], tiny_base: Base, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(tiny_base, monkeypatch)
    watch.attention_seconds |= {"sdpa": 1.0, "xformers": 0.9, "native_cudnn": 0.7, "flash": 0.1}
    watch.layouts[True] = 0.6
    found = choose(tiny_base, config, tmp_path, tmp_path)
    assert (found.attention, found.channels_last) == ("native_cudnn", True)
    assert (found.mixed_precision, found.threads) == (None, None)
    assert "native_cudnn" in found.said
    assert "channels last" in found.said
    assert "\n" not in found.said


def test_a_gain_that_may_be_chance_changes_nothing(
    watch: type[Watch], tiny_base: Base, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(tiny_base, monkeypatch)
    watch.attention_seconds |= {"sdpa": 1.0, "xformers": 0.99}
    watch.layouts |= {True: 0.99, False: 1.0}
    found = choose(tiny_base, config, tmp_path, tmp_path)
    assert (found.attention, found.channels_last) == ("sdpa", False)


def test_it_is_tried_once(watch: type[Watch], tiny_base: Base, config: TrainConfig, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    watch.halves[True] = 0.5
    first = choose(tiny_base, config, run, cache)
    watch.halves[True] = 2.0
    assert choose(tiny_base, config, run, tmp_path / "other") == first  # a run that goes on
    assert choose(tiny_base, config, tmp_path / "next", cache) == first  # the next one
    assert json.loads((tmp_path / "next" / CHOICES_NAME).read_text())["choices"]["mixed_precision"] == "bf16"
    assert len(watch.made) == 1
    (kept,) = (cache / "choices").iterdir()
    kept.write_text("{")
    assert choose(tiny_base, config, tmp_path / "third", cache).mixed_precision is None
    assert len(watch.made) == 2


def test_a_choice_that_rotted_is_made_again(
    watch: type[Watch], tiny_base: Base, config: TrainConfig, tmp_path: Path
) -> None:
    """A changed bit is still JSON, and may even be another choice."""
    watch.threads |= {4: 1.0, 2: 0.8}
    first = choose(tiny_base, config, tmp_path / "run", tmp_path / "cache")
    for place in (tmp_path / "run" / CHOICES_NAME, *(tmp_path / "cache" / "choices").iterdir()):
        place.write_text(place.read_text().replace('"threads": 2', '"threads": 3'))
    assert choose(tiny_base, config, tmp_path / "run", tmp_path / "cache") == first
    assert len(watch.made) == 2


def test_another_shape_is_another_trial(
    watch: type[Watch], tiny_base: Base, make_config: Make, tmp_path: Path
) -> None:
    for batch in (1, 2):
        choose(tiny_base, make_config(threads=None, batch_size=batch), tmp_path / "run", tmp_path)
    assert [batch for batch, _ in watch.made] == [1, 2]


def test_only_the_process_that_writes_writes(
    watch: type[Watch], tiny_base: Base, config: TrainConfig, tmp_path: Path
) -> None:
    choose(tiny_base, config, tmp_path / "run", tmp_path / "cache", writes=False)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_what_was_put_on_is_taken_back(tiny_base: Base) -> None:
    unet: Any = tiny_base.unet
    strides = [p.stride() for p in unet.parameters()]
    put_attention(unet, "native_math")
    with Choices(attention="sdpa", channels_last=True).put_on(tiny_base):
        assert trials.attention_of(tiny_base) == "sdpa"
        assert trials.is_channels_last(tiny_base)
    assert trials.attention_of(tiny_base) == "native_math"
    assert [p.stride() for p in unet.parameters()] == strides
    with Choices(channels_last=True).put_on(tiny_base), Choices(channels_last=False).put_on(tiny_base):
        assert not trials.is_channels_last(tiny_base)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_trials_run_on_the_bases_own_layers(family: str, tiny_folders: dict[str, Path]) -> None:
    from pipelines.base import load_base

    base = load_base(tiny_folders[family], device="cpu")
    trial = trials.Trial(base, 1, 8)
    taken = [
        trial.attention("sdpa"), trial.attention("native_math"), trial.convolutions(True),
        trial.convolutions(False), trial.block(), trial.block(half=True),
    ]  # fmt: skip
    assert all(seconds > 0 for seconds in taken)
    assert trials.attention_of(base) == "sdpa"
    assert all(p.grad is None for p in base.unet.parameters())
    assert isinstance(trials.has_half_units(), bool)
    assert trials.machine(base.device) == trials.machine(base.device)
