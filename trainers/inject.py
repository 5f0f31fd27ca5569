"""The adapter into the base's components, out again, and into an `Adapter`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base
from pipelines.errors import ConfigError, StudioError
from pipelines.families import TEXT_TARGETS, UNET_TARGETS
from pipelines.methods import TUNED_AS
from trainers.settings import AdapterConfig, OptimizerConfig

_NAME = "default"


@dataclass(frozen=True, eq=False)
class Injection:
    """An adapter in training inside a base; `eject` takes it out.

    layers: PEFT's layers by canonical module name. paths: where they stand, (component, path in it).
    parameters: what is trained, by module name, a dot and "down" or "up"; fp32.
    """

    base: Base
    config: AdapterConfig
    layers: Mapping[str, nn.Module]
    paths: Mapping[str, tuple[str, str]]
    parameters: Mapping[str, nn.Parameter]

    @property
    def text_is_trained(self) -> bool:
        """Whether any text encoder carries part of the adapter."""
        return any(not name.startswith("unet.") for name in self.layers)

    def groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """The optimizer's parameter groups: the UNet, and the text encoders at their own rate."""
        text_rate = config.text_learning_rate or config.learning_rate
        unet = [p for name, p in self.parameters.items() if name.startswith("unet.")]
        text = [p for name, p in self.parameters.items() if not name.startswith("unet.")]
        groups = [{"params": unet, "lr": config.learning_rate}, {"params": text, "lr": text_rate}]
        return [group for group in groups if group["params"]]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The trained values as they are, fp32, detached."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write values from `tensors` back. Raises: StudioError where a name or shape differs."""
        if set(tensors) != set(self.parameters):
            odd = sorted(set(tensors) ^ set(self.parameters))
            raise StudioError(
                f"checkpoint has other adapter values than this run ({len(odd)}, e.g. {odd[0]}); start afresh"
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if tensors[name].shape != parameter.shape:
                    raise StudioError(f"checkpoint has another shape of {name}; start afresh")
                parameter.copy_(tensors[name])


def inject(base: Base, config: AdapterConfig, seed: int = 0) -> Injection:
    """Put a fresh adapter into `base`; it starts as the identity.

    seed: of the initial values. Raises: ConfigError where a set of targets has no layer in the base.
    """
    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    method = TUNED_AS[config.method]
    layers: dict[str, nn.Module] = {}
    paths: dict[str, tuple[str, str]] = {}
    # PEFT draws the initial values from the global generators; they are given back as they were.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for component in base.family.components:
            targets = _targets(component, config)
            module = base.component(component)
            if not targets:
                continue
            if not any(_is_target(path, targets) for path, _ in module.named_modules()):
                raise ConfigError(f"base {base.ref!r} has no layers {', '.join(targets)} in its {component}")
            assert method.peft_config is not None
            peft_config = method.peft_config(config.rank, config.alpha, targets, 0.0)
            inject_adapter_in_model(peft_config, module, adapter_name=_NAME)
            for path, layer in module.named_modules():
                if isinstance(layer, BaseTunerLayer):
                    name = f"{component}.{path.removeprefix('text_model.')}"
                    layers[name], paths[name] = layer, (component, path)
    parameters: dict[str, nn.Parameter] = {}
    for name, layer in layers.items():
        for part in method.parts:
            factor = getattr(layer, part.peft.removesuffix(".weight"))[_NAME]
            factor.float()
            parameters[f"{name}.{part.name}"] = factor.weight
    return Injection(base, config, layers, paths, parameters)


def _targets(component: str, config: AdapterConfig) -> Sequence[str]:
    if component == "unet":
        return UNET_TARGETS[config.unet_targets]
    return () if config.text_targets == "none" else TEXT_TARGETS[config.text_targets]


def _is_target(path: str, targets: Sequence[str]) -> bool:
    return any(path == target or path.endswith("." + target) for target in targets)


def eject(injection: Injection) -> None:
    """Take the adapter out: the base's own layers stand where they stood, untouched."""
    for name, layer in injection.layers.items():
        component, path = injection.paths[name]
        parent, _, leaf = path.rpartition(".")
        setattr(injection.base.component(component).get_submodule(parent), leaf, layer.base_layer)
    for component in injection.base.family.components:
        # What PEFT notes down on the model itself.
        injection.base.component(component).__dict__.pop("peft_config", None)


@contextmanager
def injected(base: Base, config: AdapterConfig, seed: int = 0) -> Iterator[Injection]:
    """`inject`, and `eject` whatever happens."""
    injection = inject(base, config, seed)
    try:
        yield injection
    finally:
        eject(injection)


@contextmanager
def disabled(injection: Injection) -> Iterator[None]:
    """Let the base predict without the adapter for a while."""
    for layer in injection.layers.values():
        layer.enable_adapters(False)  # type: ignore[operator]
    try:
        yield
    finally:
        for layer in injection.layers.values():
            layer.enable_adapters(True)  # type: ignore[operator]


def collect(
    injection: Injection, name: str, triggers: Sequence[str] = (), metadata: Mapping[str, str] | None = None
) -> Adapter:
    """Copy what was trained into an Adapter."""
    factors = {
        module: LowRank(
            injection.parameters[f"{module}.down"].detach().clone(),
            injection.parameters[f"{module}.up"].detach().clone(),
            injection.config.alpha,
        )
        for module in injection.layers
    }
    return Adapter(
        name=name,
        factors=factors,
        family=injection.base.family.id,
        method=injection.config.method,
        triggers=tuple(triggers),
        metadata=dict(metadata or {}),
    )
