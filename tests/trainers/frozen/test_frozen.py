"""The base's frozen parts in one piece are the plain UNet's, up to rounding, and leave it as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipelines.base import Base, load_base
from trainers import memory
from trainers.frozen import blocks, convolving, in_one_piece, putting, winograd
from trainers.frozen.convolving import Convolution
from trainers.settings import AdapterConfig
from trainers.tuning import injected

Grads = tuple[torch.Tensor, dict[str, torch.Tensor]]


def close(found: torch.Tensor, exact: torch.Tensor, within: float = 1e-5) -> bool:
    return bool((found - exact).norm() <= within * exact.norm())


def inputs(base: Base, batch: int = 2, side: int = 8) -> tuple[torch.Tensor, dict[str, Any]]:
    """Noised latents and what else a UNet is given, drawn from a seed."""
    made = torch.Generator().manual_seed(3)
    config = base.unet.config
    given: dict[str, Any] = {
        "timestep": torch.tensor([7, 600])[:batch],
        "encoder_hidden_states": torch.randn(batch, 5, config["cross_attention_dim"], generator=made),
    }
    if config["addition_embed_type"] == "text_time":
        pooled = torch.randn(batch, 24, generator=made)
        given["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.ones(batch, 6)}
    return torch.randn(batch, 4, side, side, generator=made), given


def gradients(base: Base, parameters: dict[str, nn.Parameter]) -> Grads:
    """What the UNet predicts, and the gradients of the mean of its squares."""
    latents, given = inputs(base)
    for parameter in parameters.values():
        parameter.grad = None
    predicted = base.unet(latents, **given).sample
    predicted.square().mean().backward()
    return predicted.detach(), {
        name: parameter.grad.clone() for name, parameter in parameters.items() if parameter.grad is not None
    }


def start(parameters: dict[str, nn.Parameter]) -> None:
    """Numbers at which every part of an adapter has a gradient."""
    made = torch.Generator().manual_seed(1)
    for parameter in parameters.values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=made)


def agree(found: Grads, plain: Grads) -> None:
    assert close(found[0], plain[0])
    assert found[1].keys() == plain[1].keys()
    assert found[1]
    for name, gradient in found[1].items():
        assert close(gradient, plain[1][name], 1e-4), name


def adapter_of(method: str) -> AdapterConfig:
    """A method on as many of the UNet's layers as it takes (group norms that learn end PyTorch here)."""
    if method == "ln_tuning":
        return AdapterConfig(method=method)
    try:
        return AdapterConfig(method=method, unet_targets="all")
    except ValueError:
        return AdapterConfig(method=method)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny convolutions take Winograd's transform."""
    monkeypatch.setattr(convolving, "_CHANNELS", 16)
    monkeypatch.setattr(convolving, "_TILES", 2)


@pytest.fixture(params=[True, False], ids=["kept", "thrifty"])
def keeping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A CPU's way, and a card's."""
    monkeypatch.setattr(blocks, "keeps", lambda device: request.param)
    return bool(request.param)


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_a_step_is_the_plain_unets(family: str, tiny_folders: dict[str, Path], keeping: bool) -> None:
    base = load_base(tiny_folders[family], device="cpu")
    with injected(base, AdapterConfig()) as injection:
        start(injection.parameters)
        plain = gradients(base, injection.parameters)
        with in_one_piece(base):
            agree(gradients(base, injection.parameters), plain)
            assert "forward" in base.unet.mid_block.resnets[0].__dict__


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "bitfit", "ln_tuning", "full"])
def test_what_learns_is_left_alone(method: str, tiny_base: Base) -> None:
    with injected(tiny_base, adapter_of(method)) as injection:
        start(injection.parameters)
        plain = gradients(tiny_base, injection.parameters)
        with in_one_piece(tiny_base):
            agree(gradients(tiny_base, injection.parameters), plain)


def test_on_a_card_low_rank_convolutions_compute_their_base_themselves(tiny_base: Base) -> None:
    with injected(tiny_base, adapter_of("lora")) as injection:
        layers: list[Any] = [one.layer for one in injection.tuned.values()]
        for layer in layers:
            layer.in_one = True
        start(injection.parameters)
        plain = gradients(tiny_base, injection.parameters)
        with in_one_piece(tiny_base):
            assert all(layer.owns_base() for layer in layers)
            agree(gradients(tiny_base, injection.parameters), plain)


def test_what_begins_to_learn_later_is_left_alone(tiny_base: Base) -> None:
    unet: Any = tiny_base.unet
    resnet, feeding = unet.mid_block.resnets[0], unet.mid_block.attentions[0].transformer_blocks[0].ff
    later = {"conv": resnet.conv1.weight, "shift": resnet.time_emb_proj.bias, "out": unet.conv_out.bias}
    later |= {"wide": feeding.net[0].proj.bias, "narrow": feeding.net[2].weight}
    with in_one_piece(tiny_base):
        for parameter in later.values():
            parameter.requires_grad_(True)
        found = gradients(tiny_base, later)
    agree(found, gradients(tiny_base, later))
    assert len(found[1]) == 5


def test_group_norms_that_learn_keep_their_layout(tiny_base: Base) -> None:
    """Their backward pass ends the process where the input is channels last and needs no gradient."""
    norm = next(m for m in tiny_base.unet.modules() if isinstance(m, nn.GroupNorm))
    norm.requires_grad_(True)
    with in_one_piece(tiny_base):
        assert not any("forward" in m.__dict__ for m in tiny_base.unet.modules())
        latents, given = inputs(tiny_base)
        tiny_base.unet(latents, **given).sample.square().mean().backward()
    assert norm.weight.grad is not None


def test_everything_is_as_before_afterwards(tiny_base: Base) -> None:
    latents, given = inputs(tiny_base)
    with torch.no_grad():
        before = tiny_base.unet(latents, **given).sample
    attributes = {name: set(m.__dict__) for name, m in tiny_base.unet.named_modules()}
    with pytest.raises(RuntimeError, match="stop"), in_one_piece(tiny_base):
        with torch.no_grad():  # previews keep their bits
            assert torch.equal(tiny_base.unet(latents, **given).sample, before)
        changed = [name for name, m in tiny_base.unet.named_modules() if set(m.__dict__) != attributes[name]]
        assert len(changed) > 20
        raise RuntimeError("stop")
    assert {name: set(m.__dict__) for name, m in tiny_base.unet.named_modules()} == attributes
    with in_one_piece(tiny_base, enabled=False):
        assert {name: set(m.__dict__) for name, m in tiny_base.unet.named_modules()} == attributes


def test_recomputing_goes_through_it(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig()) as injection:
        start(injection.parameters)
        with in_one_piece(tiny_base):
            kept = gradients(tiny_base, injection.parameters)
            with memory.checkpointing(tiny_base, "all"):
                again = gradients(tiny_base, injection.parameters)
    assert torch.equal(again[0], kept[0])
    assert all(torch.equal(again[1][name], value) for name, value in kept[1].items())


def test_under_autocast_the_plain_unet_computes(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig()) as injection:
        start(injection.parameters)
        with torch.autocast("cpu", torch.bfloat16):
            plain = gradients(tiny_base, injection.parameters)
            with in_one_piece(tiny_base):
                found = gradients(tiny_base, injection.parameters)
    assert torch.equal(found[0], plain[0])


# ── Convolutions

KINDS: dict[str, dict[str, Any]] = {
    "same": {"kernel_size": 3, "padding": 1},
    "same without bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "single": {"kernel_size": 1},
    "single without bias": {"kernel_size": 1, "bias": False},
    "halving": {"kernel_size": 3, "padding": 1, "stride": 2},
    "in groups": {"kernel_size": 3, "padding": 1, "groups": 4},
}


@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_is_pytorchs(kind: str, tiled: bool, last: bool) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(16, 24, **KINDS[kind]).requires_grad_(False)
    values = torch.randn(2, 16, 8, 12)
    if last:
        values = values.contiguous(memory_format=torch.channels_last)
    values.requires_grad_()
    plain = module(values)
    towards = torch.randn(plain.shape)
    (exact,) = torch.autograd.grad(plain, values, towards)
    found = putting._applied(convolving.Convolve, values, Convolution(module, tiled))
    (back,) = torch.autograd.grad(found, values, towards)
    assert close(found.detach(), plain.detach())
    assert close(back, exact)
    assert found.detach().add_(1).shape == plain.shape  # no view of something else


def test_winograds_error_is_that_of_fp32() -> None:
    torch.manual_seed(0)
    values, weight, bias = torch.randn(2, 64, 8, 12), torch.randn(32, 64, 3, 3) / 24, torch.randn(32)
    exact = functional.conv2d(values.double(), weight.double(), bias.double(), padding=1)
    found = winograd.Winograd().convolve(values, winograd.transformed(weight), bias)
    assert close(found.double(), exact, 4e-6)
    assert winograd.tiles(values.shape) == 2 * 2 * 3
    assert winograd.tiles(torch.Size((2, 64, 6, 8))) == 0
    assert winograd.transformed(weight).nbytes == winograd.weight_bytes(weight)


@pytest.mark.parametrize("tiled", [True, False])
def test_a_changed_weight_is_seen(tiled: bool) -> None:
    module = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
    own, values = Convolution(module, tiled), torch.randn(1, 16, 8, 8)
    own.forward(values)
    module.weight.mul_(2)
    assert close(own.forward(values), module(values))
    module.weight.data = torch.randn(16, 16, 3, 3)
    assert close(own.forward(values), module(values))


def test_without_onednns_kernel_pytorchs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolving, "has_kernels", lambda: False)
    module = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
    values = torch.randn(1, 16, 8, 8)
    assert torch.equal(Convolution(module, True).forward(values), module(values))


def test_large_weights_are_not_transformed(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def tiled() -> list[int]:
        made = putting._convolutions(tiny_base.unet).values()
        return sorted(one.module.weight.numel() for one in made if one._tiled)

    every = tiled()
    smallest = 36 * 4 * every[0] // 9
    monkeypatch.setattr(putting, "_BUDGET", 2 * smallest)
    assert tiled() == every[:1]


# ── Blocks


def test_gradients_of_blocks_are_right(tiny_base: Base, keeping: bool) -> None:
    torch.manual_seed(0)
    unet: Any = tiny_base.unet.double().requires_grad_(False)
    block, layer = unet.up_blocks[0].resnets[0], unet.mid_block.attentions[0].transformer_blocks[0].ff
    assert block.conv_shortcut is not None
    block.output_scale_factor = 1.5
    parts = blocks.ResnetParts(block, putting._convolutions(unet))
    values = torch.randn(1, block.in_channels, 4, 4, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(1, block.out_channels, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, t: putting._applied(blocks.Residual, x, t, parts), (values, shift), fast_mode=True
    )
    tokens = torch.randn(1, 3, layer.net[2].out_features, dtype=torch.float64, requires_grad=True)
    linear = (layer.net[0].proj, layer.net[2])
    assert torch.autograd.gradcheck(
        lambda x: putting._applied(blocks.FeedForward, x, *linear), (tokens,), fast_mode=True
    )


def test_a_cards_way_keeps_less(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> int:
        seen: dict[int, int] = {}
        held = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if not isinstance(tensor, nn.Parameter):
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                held.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            gradients(tiny_base, injection.parameters)
        return sum(seen.values())

    monkeypatch.setattr(blocks, "keeps", lambda device: False)
    with injected(tiny_base, AdapterConfig()) as injection:
        plain = kept()
        with in_one_piece(tiny_base):
            assert kept() < 0.75 * plain
