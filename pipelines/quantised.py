"""Bases in fewer bits: the UNet's linear layers through the libraries that diffusers supports, or our own.

A layer is quantised where it stands, one after the other, so that never more than one is there twice.
Convolutions, the layers that embed time and size, the text encoders and the VAE stay as they are. Adapters
are then added by the layers (`pipelines.mixing.unfused`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    Layer = Callable[[nn.Linear], nn.Linear]


@dataclass(frozen=True, kw_only=True)
class Quantiser:
    """One way to hold a linear layer in fewer bits.

    bits: per number, scales included. package: what is imported. extra: Pigment's extra that brings it, ""
    where nothing needs to be brought. needs: the hardware it runs on. moves: whether a layer can be copied
    to the device and dropped there. layer: returns a layer's quantised form: the layer itself with another
    weight, or another module; the layer as it was where its shape can't be. text: the same for layers that
    see a text encoder's numbers; None: `layer`.
    """

    label: str
    bits: float
    package: str
    extra: str
    needs: str
    layer: Layer
    moves: bool = True
    text: Layer | None = None


def _torchao(config: str, **options: Any) -> Layer:
    def quantise(layer: nn.Linear) -> nn.Linear:
        import torchao.quantization as ao

        ao.quantize_(layer, getattr(ao, config)(set_inductor_config=False, **options))
        return _straight(layer)

    return quantise


def _torchao_int4(layer: nn.Linear) -> nn.Linear:
    """Groups of the largest size that divides the layer's inputs; a layer that none divides stays."""
    import torchao.quantization as ao

    size = next((size for size in (128, 64, 32) if layer.in_features % size == 0), None)
    if size is None:
        return layer
    packing = "plain_int32" if layer.weight.device.type == "xpu" else "tile_packed_to_4d"
    config = ao.Int4WeightOnlyConfig(group_size=size, int4_packing_format=packing, set_inductor_config=False)
    ao.quantize_(layer, config)
    return _straight(layer)


def _straight(layer: nn.Linear) -> nn.Linear:
    """The layer with a backward pass of our own; a layer whose weight the library left alone stays."""
    from pipelines.straight import StraightLinear

    return layer if type(layer.weight.data) is _plain() else StraightLinear(layer)


def _nf4(layer: nn.Linear) -> nn.Linear:
    import bitsandbytes as bnb

    made = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=layer.weight.dtype,
        quant_type="nf4", compress_statistics=False, device="meta",
    )  # fmt: skip
    made.weight = bnb.nn.Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=False, module=made
    )
    return _instead(layer, made)


def _bnb_int8(layer: nn.Linear) -> nn.Linear:
    import logging

    import bitsandbytes as bnb

    # It says at every product that it casts to fp16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    made = bnb.nn.Linear8bitLt(
        layer.in_features, layer.out_features, bias=False, has_fp16_weights=False, device="meta"
    )
    made.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    return _instead(layer, made)


def _instead(layer: nn.Linear, made: Any) -> nn.Linear:
    """Finish a bitsandbytes layer: it takes the bias over and is quantised by moving where it belongs."""
    made.bias = layer.bias
    moved: nn.Linear = made.to(layer.weight.device).eval()
    return moved


def _quanto(kind: str) -> Layer:
    def quantise(layer: nn.Linear) -> nn.Linear:
        from optimum import quanto

        made: Any = quanto.nn.QLinear.from_module(layer, weights=getattr(quanto, kind))
        made.freeze()
        return _straight(made.eval())

    return quantise


def _own_int8(rounds: bool) -> Layer:
    def quantise(layer: nn.Linear) -> nn.Linear:
        from pipelines.int8 import Int8Linear, fits

        return Int8Linear(layer, rounds=rounds) if fits(layer) else layer

    return quantise


_SEES_TEXT = ("attn2.to_k", "attn2.to_v")

_ANY, _AMPERE = "a CPU or a CUDA card", "a CUDA card from Ampere on (or an Intel GPU), and bf16"

QUANTISED: dict[str, Quantiser] = {
    # CLIP's tokens have a few numbers some 30 times as large as the rest, which a scale per token can't
    # hold beside them, and there are 77 of them only: there the weight alone is rounded.
    "int8-w8a8": Quantiser(
        label="8-bit weights and activations", bits=8.1, package="torch", extra="",
        needs="a CPU or a graphics card", layer=_own_int8(True), text=_own_int8(False),
    ),
    "int8": Quantiser(
        label="8-bit weights (torchao)", bits=8.1, package="torchao", extra="quant", needs=_ANY,
        layer=_torchao("Int8WeightOnlyConfig"),
    ),
    "int8-dynamic": Quantiser(
        label="8-bit weights and activations (torchao)", bits=8.1, package="torchao", extra="quant",
        needs=_ANY, layer=_torchao("Int8DynamicActivationInt8WeightConfig"),
    ),
    "int4": Quantiser(
        label="4-bit weights (torchao)", bits=4.5, package="torchao", extra="quant", needs=_AMPERE,
        layer=_torchao_int4,
    ),
    "fp8": Quantiser(
        label="8-bit floating point weights (torchao)", bits=8.1, package="torchao", extra="quant",
        needs=_ANY, layer=_torchao("Float8WeightOnlyConfig"),
    ),
    "nf4": Quantiser(
        label="4-bit weights (bitsandbytes)", bits=4.5, package="bitsandbytes", extra="cuda", needs=_ANY,
        layer=_nf4,
        moves=False,
    ),
    "bnb-int8": Quantiser(
        label="8-bit weights (bitsandbytes)", bits=8.1, package="bitsandbytes", extra="cuda", needs=_ANY,
        layer=_bnb_int8,
        moves=False,
    ),
    "quanto-int8": Quantiser(
        label="8-bit weights (quanto)", bits=8.1, package="optimum.quanto", extra="quant", needs=_ANY,
        layer=_quanto("qint8"),
    ),
    "quanto-int4": Quantiser(
        label="4-bit weights (quanto)", bits=4.5, package="optimum.quanto", extra="quant", needs=_ANY,
        layer=_quanto("qint4"),
    ),
}  # fmt: skip


def check_quantiser(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Try a quantiser on a small layer.

    Raises: ConfigError for an unknown name, a package that is missing (names the extra), and one that
    doesn't run on this device in this precision (names what it needs).
    """
    import importlib

    import torch

    if name not in QUANTISED:
        raise ConfigError(f"unknown quantisation {name!r}{nearest(name, QUANTISED)}")
    row = QUANTISED[name]
    where = f"on {device} in {str(dtype)[6:]}"
    try:
        importlib.import_module(row.package)
    except Exception as error:  # a broken build raises more than ImportError
        how = f'pip install "pigment-studio[{row.extra}]"'
        missing = f"{row.package} isn't installed" if isinstance(error, ImportError) else _first_line(error)
        raise ConfigError(f"quantisation {name!r} can't be used: {missing}; {how}") from error
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            layer = torch.nn.Linear(128, 128).to(device, dtype).requires_grad_(False)
            x = torch.randn(1, 16, 128).to(device, dtype)
            exact = layer(x).float()
            found = row.layer(layer)(x).float()
    except Exception as error:
        raise ConfigError(
            f"quantisation {name!r} doesn't run {where} ({_first_line(error)}); it needs {row.needs}"
        ) from error
    wrong = float((found - exact).norm() / exact.norm())
    if not 0 < wrong < 0.3:
        raise ConfigError(
            f"quantisation {name!r} gives wrong numbers {where} (off by {wrong:.0%}); it needs {row.needs}"
        )


def quantise(unet: nn.Module, name: str, device: torch.device, home: torch.device | None = None) -> int:
    """Quantise a UNet's attention blocks in place; returns how many layers were.

    device: where it's done, layer by layer, so that a UNet on another device is never whole on this one.
    home: where the quantised layers go then; None is `device`.
    Raises: ConfigError where a layer can't be, or none was.
    """

    row, done = QUANTISED[name], 0
    for path, parent, child in list(_layers(unet)):
        layer = getattr(parent, child)
        try:
            layer.to(device)
            before = layer.weight
            make = row.text if row.text is not None and path.endswith(_SEES_TEXT) else row.layer
            made = make(layer)
            if home not in (None, device):
                made.to(home)
        except Exception as error:
            raise ConfigError(
                f"quantisation {name!r} fails at unet.{path} ({_first_line(error)}); it needs {row.needs}"
            ) from error
        if made is not layer:
            setattr(parent, child, made)
        if made is not layer or type(made.weight.data) is not type(before.data):
            done += 1
    if not done:
        raise ConfigError(f"quantisation {name!r} found no layer in this base that it can hold in fewer bits")
    return done


def _layers(unet: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Paths, parents and names of the plain linear layers in attention blocks."""
    from torch import nn

    for path, module in unet.named_modules():
        if ".attentions." not in f".{path}.":
            continue
        for name, child in module.named_children():
            if type(child) is nn.Linear and type(child.weight.data) is _plain():
                yield f"{path}.{name}", module, name


def _plain() -> type:
    import torch

    return torch.Tensor


def dequantised(layer: nn.Module) -> torch.Tensor | None:
    """What a packed weight stands for, (out, in): bitsandbytes' and torchao's of 4 bits don't say it.

    None for a layer whose weight is asked by `dequantize`, or isn't packed.
    """
    from pipelines.straight import StraightLinear, stands_for

    weight: Any = getattr(layer, "weight", None)
    if isinstance(layer, StraightLinear):
        return stands_for(layer, weight.dtype)
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes import functional

        found: torch.Tensor = functional.dequantize_4bit(weight.data, state)
        return found
    # After its first forward pass a layer of 8 bits has moved them into its state.
    inner = getattr(layer, "state", None)
    scales = getattr(weight, "SCB", None)
    scales = getattr(inner, "SCB", None) if scales is None else scales
    if scales is None:
        return None
    return weight.data.float() * (scales.to(weight.device).float() / 127)[:, None]


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160].rstrip(".") if text else type(error).__name__
