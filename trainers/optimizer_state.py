"""An optimizer's whole state as tensors, and back: every number as it was, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.errors import StudioError

_VALUES = "values.json"
"""Name of the tensor that holds, as JSON's bytes, whatever isn't a tensor: where it goes, and what it is."""

_OF_THE_STEP = ("params", "capturable")
"""What a group says that differs with how steps are done."""


@dataclass(eq=False)
class _Packed:
    """Tensors by name, each in a memory of its own, as safetensors wants them."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    memories: set[int] = field(default_factory=set)

    def pack(self, name: str, value: Any, home: torch.device) -> Any:
        """Return `value` as JSON; its tensors are kept under `name`. home: device of the parameter."""
        if isinstance(value, torch.Tensor):
            memory = value.untyped_storage().data_ptr()
            self.tensors[name] = value.detach().clone() if memory in self.memories else value.detach()
            self.memories.add(memory)
            return {"tensor": name, "beside": value.device == home}
        if isinstance(value, dict):
            parts = [[key, self.pack(f"{name}/{key}", part, home)] for key, part in value.items()]
            return {"dict": parts}
        if isinstance(value, tuple | list):
            parts = [self.pack(f"{name}/{index}", part, home) for index, part in enumerate(value)]
            return {type(value).__name__: parts}
        assert value is None or isinstance(value, bool | int | float | str), f"{name} is a {type(value)}"
        return value


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor], home: torch.device) -> Any:
    """Return what `_Packed.pack` was given."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]].to(home if value["beside"] else "cpu")
    if "dict" in value:
        return {key: _unpack(part, tensors, home) for key, part in value["dict"]}
    ((kind, parts),) = value.items()
    return {"tuple": tuple, "list": list}[kind](_unpack(part, tensors, home) for part in parts)


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a group says beside its parameters, its rate as a number."""
    return {key: value for key, value in group.items() if key not in _OF_THE_STEP} | {
        "lr": float(group["lr"])
    }


def optimizer_state(optimizer: Any, names: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """Return everything that an optimizer keeps: tensors, and what is beside them for parameters and groups.

    optimizer: or what stands for it by the parameters that were injected (`Flat.spread`). names: of the
    parameters, by `id`.
    """
    packed = _Packed()
    values = {
        "optimizer": getattr(optimizer, "kind", type(optimizer).__name__),
        "parameters": {
            names[id(parameter)]: packed.pack(names[id(parameter)], dict(kept), parameter.device)
            for parameter, kept in optimizer.state.items()
        },
        "groups": [
            {
                "parameters": [names[id(parameter)] for parameter in group["params"]],
                "values": packed.pack(
                    f"groups/{index}",
                    _plain(group),
                    group["params"][0].device,
                ),
            }
            for index, group in enumerate(optimizer.param_groups)
        ],
    }
    text = bytearray(json.dumps(values).encode())
    return {**packed.tensors, _VALUES: torch.frombuffer(text, dtype=torch.uint8)}


def restore_optimizer_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Put back what `optimizer_state` returned. A parameter that had no state yet has none again.

    parameters: by name. Raises: StudioError where it is of another optimizer or of other parameters.
    """
    if _VALUES not in tensors:
        raise StudioError("checkpoint has no optimizer state; start afresh")
    values = json.loads(bytes(tensors[_VALUES].tolist()))
    if values["optimizer"] != type(optimizer).__name__:
        raise StudioError(
            f"checkpoint has the state of {values['optimizer']}, this run uses {type(optimizer).__name__}; "
            "choose that optimizer again or start afresh"
        )
    names = {id(parameter): name for name, parameter in parameters.items()}
    here = [[names.get(id(parameter)) for parameter in group["params"]] for group in optimizer.param_groups]
    if here != [group["parameters"] for group in values["groups"]]:
        raise StudioError("checkpoint has no optimizer state for some of the adapter; start afresh")
    for group, saved in zip(optimizer.param_groups, values["groups"], strict=True):
        found = _unpack(saved["values"], tensors, group["params"][0].device)
        if isinstance(group["lr"], torch.Tensor):  # which stays where it is; the run sets it at each step
            found.pop("lr", None)
        group.update({key: value for key, value in found.items() if key not in _OF_THE_STEP})
    optimizer.state.clear()
    for name, saved in values["parameters"].items():
        optimizer.state[parameters[name]] = _unpack(saved, tensors, parameters[name].device)
