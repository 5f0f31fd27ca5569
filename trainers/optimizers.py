"""How a step is taken: optimizers, from libraries."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipelines.errors import ConfigError
from trainers.schedules import SCHEDULES as SCHEDULES
from trainers.schedules import rate_factor as rate_factor
from trainers.settings import OptimizerConfig
from trainers.settings import optimizer as settings

if TYPE_CHECKING:
    from pipelines.base import Base

Groups = Sequence[dict[str, Any]]
"""Parameter groups: "params", and each group's own "lr" and "weight_decay" where they differ."""


@dataclass(frozen=True)
class Optimizer:
    """One optimizer. build: (groups, keyword arguments) → it. paper: where it comes from.

    betas: names of the settings that make up its `betas`, with their defaults; empty where it has none.
    arguments: what it is always given. needs: an optional package without which it can't be made.
    elementwise: whether it treats every number by itself, wherever it stands. on_device: whether its step can
    be left out by a flag on the device (`found_inf`) and be recorded as a CUDA graph, its rate a tensor.
    """

    build: Callable[..., torch.optim.Optimizer]
    paper: str
    betas: tuple[tuple[str, float], ...] = (("beta1", 0.9), ("beta2", 0.999))
    arguments: Callable[[OptimizerConfig], dict[str, Any]] = lambda config: {}
    needs: str | None = None
    elementwise: bool = False
    on_device: bool = False

    def __call__(self, groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
        """Make it; see `build_optimizer`."""
        given = {"lr": config.learning_rate, "eps": config.eps}
        arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.betas:
            own = ((getattr(config, name), default) for name, default in self.betas)
            arguments["betas"] = tuple(default if value is None else value for value, default in own)
        arguments |= {"weight_decay": config.weight_decay, **self.arguments(config)}
        return self.build([dict(group) for group in groups], **arguments)


def _library(name: str) -> Callable[..., torch.optim.Optimizer]:
    """An optimizer of pytorch_optimizer by its class's name; imported when it is made, not before."""

    def build(groups: list[dict[str, Any]], **arguments: Any) -> torch.optim.Optimizer:
        import pytorch_optimizer

        made: torch.optim.Optimizer = getattr(pytorch_optimizer, name)(groups, **arguments)
        return made

    return build


def _fused_adamw(groups: list[dict[str, Any]], **arguments: Any) -> torch.optim.Optimizer:
    """AdamW in its fused form, which is four times as fast on a CPU with hundreds of small tensors."""
    return torch.optim.AdamW(groups, fused=True, **arguments)


def _adamw8bit(groups: list[dict[str, Any]], **arguments: Any) -> torch.optim.Optimizer:
    """AdamW whose state of large parameters takes 8 bits a number."""
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(groups, **arguments)
    return made


def _adafactor(groups: list[dict[str, Any]], **arguments: Any) -> torch.optim.Optimizer:
    """Adafactor at the given rate.

    It isn't scaled with the parameter's size, as torch's is: half of a fresh adapter is zero, and would
    hardly move.
    """
    from transformers.optimization import Adafactor

    made: torch.optim.Optimizer = Adafactor(groups, scale_parameter=False, relative_step=False, **arguments)
    return made


def _decoupled(config: OptimizerConfig) -> dict[str, Any]:
    """Weight decay beside the step, as in AdamW, for those that have both ways."""
    return {"weight_decouple": True}


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(
        _fused_adamw,
        "Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101",
        elementwise=True,
        on_device=True,
    ),
    "adamw8bit": Optimizer(
        _adamw8bit, "Dettmers et al. 2021, https://arxiv.org/abs/2110.02861", needs="bitsandbytes"
    ),
    "adafactor": Optimizer(
        _adafactor,
        "Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235",
        betas=(),
        arguments=lambda config: {"beta1": config.beta1 or None},
    ),
    "lion": Optimizer(
        _library("Lion"),
        "Chen et al. 2023, https://arxiv.org/abs/2302.06675",
        betas=(("beta1", 0.9), ("beta2", 0.99)),
        arguments=_decoupled,
        elementwise=True,
    ),
    "came": Optimizer(
        _library("CAME"),
        "Luo et al. 2023, https://arxiv.org/abs/2307.02047",
        betas=(("beta1", 0.9), ("beta2", 0.999), ("beta3", 0.9999)),
        arguments=_decoupled,
    ),
    "adopt": Optimizer(
        _library("ADOPT"),
        "Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853",
        betas=(("beta1", 0.9), ("beta2", 0.9999)),
        arguments=_decoupled,
        elementwise=True,
    ),
    "ademamix": Optimizer(
        _library("AdEMAMix"),
        "Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137",
        betas=(("beta1", 0.9), ("beta2", 0.999), ("beta3", 0.9999)),
        arguments=_decoupled,
        elementwise=True,
    ),
    "stable_adamw": Optimizer(
        _library("StableAdamW"),
        "Wortsman et al. 2023, https://arxiv.org/abs/2304.13013",
        betas=(("beta1", 0.9), ("beta2", 0.99)),
        arguments=_decoupled,
    ),
    "prodigy": Optimizer(
        _library("Prodigy"),
        "Mishchenko & Defazio 2023, https://arxiv.org/abs/2306.06101",
        arguments=lambda config: {
            "weight_decouple": True,
            "d_coef": config.d_coef,
            # While the rate rises, it must not make the estimate larger. With the library's bias correction
            # beside it, the estimate would hardly grow in the hundreds of steps of a run here.
            "safeguard_warmup": config.warmup_steps > 0,
        },
    ),
    "schedule_free_adamw": Optimizer(
        _library("ScheduleFreeAdamW"), "Defazio et al. 2024, https://arxiv.org/abs/2405.15682"
    ),
}


def check_installed(config: OptimizerConfig) -> None:
    """Refuse an optimizer whose library is missing, before anything is done. Raises: ConfigError."""
    needs = OPTIMIZERS[config.optimizer].needs
    if needs is not None and not is_installed(needs):
        raise ConfigError(
            f"optimizer {config.optimizer!r} needs {needs}, which isn't installed; install "
            "pigment-studio[cuda] or choose 'adafactor'"
        )


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it isn't."""
    return importlib.util.find_spec(package) is not None


def build_optimizer(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make the optimizer that `config` names.

    groups: each with its "params", "lr" and "weight_decay"; a "name" may stand beside them.

    Raises: ConfigError where its library is missing, or it has one rate for all and the groups have several.
    """
    check_installed(config)
    rates = {group["lr"] for group in groups if "lr" in group}
    if settings.OPTIMIZERS[config.optimizer].learning_rate is not None and len(rates) > 1:
        raise ConfigError(
            f"optimizer {config.optimizer!r} has one learning rate for all, got {len(rates)}; leave out "
            "the rates of single parts or choose 'adamw'"
        )
    return OPTIMIZERS[config.optimizer](groups, config)


@contextmanager
def learning_groups(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let an optimizer see only those of its groups that learn, for a step.

    Some count steps and sum up weights by the group, whether its parameters have gradients or not. A group
    that rests thus begins as at the first step when its turn comes, and Prodigy's estimate is its own.
    """
    groups = optimizer.param_groups
    optimizer.param_groups = [group for group in groups if _learns(group)]
    try:
        yield
    finally:
        optimizer.param_groups = groups


def _learns(group: dict[str, Any]) -> bool:
    return any(parameter.requires_grad for parameter in group["params"])


def step_size(optimizer: torch.optim.Optimizer) -> float:
    """Return the rate of the first group that learns as AdamW's is understood, for people to look at.

    For an optimizer that finds the size of a step by itself that is its rate times what it has found.
    """
    group = next(filter(_learns, optimizer.param_groups), optimizer.param_groups[0])
    return float(group["lr"]) * float(group.get("d", 1.0))


_NARROW = 128
_NARROW_SCALE = 20.0


def base_rate_scale(base: Base) -> float:
    """Return what a rate that is good for models of published size is multiplied with for `base`.

    Narrow layers want larger steps; measured on the embedded base, where 2e-3 does what 1e-4 does on SD 1.5.
    """
    narrow = int(base.unet.config["block_out_channels"][0]) <= _NARROW
    return _NARROW_SCALE if narrow else 1.0
