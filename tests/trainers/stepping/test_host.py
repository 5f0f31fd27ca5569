"""A step asks nothing of the host, so that it can be recorded: shown where tensors have no numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainers import loop
from trainers.batches import Batch
from trainers.conditions import Asked
from trainers.config import TrainConfig
from trainers.stepping import Stepper

CARD = torch.device("meta")
"""Where tensors have shapes and no numbers: asking for one raises, and mixing with the host's does."""


class Watch(TorchDispatchMode):
    """Notes operations that take numbers from the host, or give them to it."""

    def __init__(self) -> None:
        super().__init__()
        self.crossing: list[str] = []
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls += 1
        tensors = [one for one in _flat((args, kwargs or {}, found)) if isinstance(one, torch.Tensor)]
        # a constant of Python's is a tensor of one number on the host, given along with the launch
        devices = {one.device.type for one in tensors if one.dim()}
        if len(devices) > 1:
            self.crossing.append(str(func))
        return found


class Lists(TorchFunctionMode):
    """Notes tensors that are made of Python's lists, and rows that are named by them."""

    def __init__(self) -> None:
        super().__init__()
        self.crossing: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func in (torch.tensor, torch.as_tensor, torch.from_numpy)
        indexed = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
        index = args[1] if indexed else None
        if made or any(isinstance(one, list) for one in (index if isinstance(index, tuple) else (index,))):
            self.crossing.append(f"{func.__name__} {args[:1] if made else index}")
        return func(*args, **(kwargs or {}))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [one for part in value for one in _flat(part)]
    return [value]


def there(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor's shape and kind on the card."""
    return torch.empty(value.shape, dtype=value.dtype, device=CARD)


def moved(module: nn.Module) -> None:
    """Put a module's parameters and buffers on the card, without numbers."""
    for part in module.modules():
        tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for kept in tables:
            for name, value in kept.items():
                if value is not None:
                    new = there(value)
                    learns = isinstance(value, nn.Parameter)
                    kept[name] = nn.Parameter(new, requires_grad=value.requires_grad) if learns else new


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_forward_and_backward_stay_on_the_card(
    family: str, make_config: Callable[..., TrainConfig], tiny_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[Watch] = []

    def learn(self: Stepper, batch: Batch, step: int) -> Any:
        asked = self._ask(batch)
        base = self._injection.base
        levels = self._loss.__closure__  # the recipe's own, whose table of noise levels goes along
        assert levels is not None
        (table,) = [cell.cell_contents for cell in levels if hasattr(cell.cell_contents, "signal")]
        for component in (base.unet, *base.text_encoders().values()):
            moved(component)
        object.__setattr__(table, "signal", there(table.signal))
        object.__setattr__(base, "device", CARD)
        batch = Batch.of(batch.streams, {name: there(one) for name, one in batch.tensors().items()})
        asked = [Asked({name: there(one) for name, one in a.tensors.items()}, a.count) for a in asked]
        with Watch() as watch, Lists() as lists:
            loss, _ = self._loss(batch, asked)
            loss.backward()
        watch.crossing += lists.crossing
        seen.append(watch)
        raise KeyboardInterrupt

    monkeypatch.setattr(Stepper, "learn", learn)
    config = make_config(base=str(tiny_folders[family]), text_targets="attention", prior_target="base",
                         evaluate_every=0)  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        list(loop.train(config))
    (watch,) = seen
    assert watch.calls > 500 and watch.crossing == []
