"""The optimizer's parameter groups: a rate per component and block, decay where it makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pipelines.methods import TUNINGS, Tuning
from trainers.inversion import Words
from trainers.settings import AdapterConfig, OptimizerConfig
from trainers.settings.optimizer import default_rate
from trainers.tuning.layers import Tuned
from trainers.tuning.starts import REWRITING

WORD_RATE = TUNINGS["textual_inversion"].learning_rate
"""Of a learned word, on bases of any size: its vectors are about as long everywhere."""


def groups(
    tuned: Mapping[str, Tuned],
    words: Words | None,
    tuning: Tuning,
    adapter: AdapterConfig,
    optimizer: OptimizerConfig,
    scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Return groups with `params`, `lr`, `weight_decay` and `name`, in an order that never changes.

    scale: what the tuning's own learning rate is multiplied by where the config gives none, for bases
    smaller than the published ones. Optimizers that want another rate than AdamW get it.
    """
    unet = optimizer.learning_rate
    if unet is None:
        unet = usual_rate(tuning, optimizer, scale)
    text = optimizer.text_learning_rate if optimizer.text_learning_rate is not None else unet
    found: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
    for one in tuned.values():
        part = "unet" if one.seat.component == "unet" else "text"
        for name, parameter in one.trained().items():
            decays = tuning.decays and name not in tuning.no_decay and adapter.initialisation not in REWRITING
            found.setdefault((part, one.seat.rate, decays), []).append(parameter)
    made = [
        {
            "params": parameters,
            "lr": (unet if part == "unet" else text) * rate,
            "weight_decay": optimizer.weight_decay if decays else 0.0,
            "name": part + (f" ×{rate:g}" if rate != 1 else "") + ("" if decays else ", no decay"),
        }
        for (part, rate, decays), parameters in found.items()
    ]
    if words is not None:
        rate = adapter.token_learning_rate or default_rate(optimizer.optimizer, WORD_RATE)
        params = list(words.parameters.values())
        made.append({"params": params, "lr": rate, "weight_decay": 0.0, "name": "words"})
    return made


def usual_rate(tuning: Tuning, optimizer: OptimizerConfig, scale: float = 1.0) -> float:
    """Return the learning rate that a tuning has where the config gives none; scale: as for `groups`."""
    return default_rate(optimizer.optimizer, tuning.learning_rate * scale)
