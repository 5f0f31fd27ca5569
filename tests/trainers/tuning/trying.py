"""A prediction to compare, and a few steps of training, for tests of tuned bases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pipelines.base import Base
from pipelines.methods import TUNINGS
from trainers.settings import AdapterConfig
from trainers.tuning import Injection

PROMPTS = ["a fox", "a zuv fox"]
WORD = "zuv"


def predict(base: Base, prompts: Iterable[str] = PROMPTS) -> torch.Tensor:
    """What the UNet answers for two latents, (2, 4, 8, 8), with gradients."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = base.condition(list(prompts))
    answer: torch.Tensor = base.unet(latents, torch.tensor([10, 700]), **told.arguments((16, 16))).sample
    return answer


def seen(base: Base, prompts: Iterable[str] = PROMPTS) -> torch.Tensor:
    """`predict` without gradients."""
    with torch.no_grad():
        return predict(base, prompts)


def config_of(method: str, **fields: Any) -> AdapterConfig:
    """A config of a tuning with small sizes on many layers, as far as these mean something to it."""
    row = TUNINGS[method]
    usual: dict[str, Any] = {
        "rank": 2,
        "alpha": 3.0,
        "unet_targets": "attention+ff",
        "text_targets": "attention+mlp",
    }
    means = {"unet_targets": "unet" in row.components, "text_targets": "text" in row.components}
    kept = {name: value for name, value in usual.items() if name in row.uses or means.get(name)}
    return AdapterConfig(method=method, **{**kept, **fields})


def train(injection: Injection, steps: int = 3, rate: float = 3e-2, prompts: Iterable[str] = PROMPTS) -> None:
    """Take some steps of plain Adam towards predicting ones."""
    optimizer = torch.optim.Adam(injection.parameters.values(), lr=rate)
    for step in range(1, steps + 1):
        take_step(injection, optimizer, step, steps, prompts)


def take_step(
    injection: Injection,
    optimizer: torch.optim.Optimizer,
    step: int,
    total: int,
    prompts: Iterable[str] = PROMPTS,
) -> None:
    """Take one step."""
    with injection.learning(step):
        loss = (predict(injection.base, prompts) - 1.0).square().mean()
        penalty = injection.penalty()
        (loss if penalty is None else loss + penalty).backward()
    optimizer.step()
    injection.after_step(step, total)
    optimizer.zero_grad(set_to_none=True)


def disturb(parameters: Iterable[nn.Parameter], seed: int = 0) -> None:
    """Give every trained value something else to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
