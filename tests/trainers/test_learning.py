"""What is looked at before a run begins is what the run then has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipelines.base import Base
from trainers import learning
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.preparing import before_captions


@pytest.mark.parametrize(("without", "quick"), [((), True), (("layers",), False)])
def test_the_trial_takes_the_layers_that_the_run_takes(
    without: tuple[str, ...],
    quick: bool,
    make_config: Callable[..., TrainConfig],
    tiny_base: Base,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PEFT refuses what our layers don't: that must be said before anything is written."""
    asked: list[bool] = []
    injected = learning.injected

    def watched(*given: Any, quick: bool = True, **named: Any) -> Any:
        asked.append(quick)
        return injected(*given, quick=quick, **named)

    monkeypatch.setattr(learning, "injected", watched)
    config = make_config(without=without)
    dataset = load_dataset(before_captions(config.data))
    assert learning.check_injection(tiny_base, config, dataset) > 0
    assert asked == [quick]
