"""Weights that visit: a pretend device is the CPU itself, onto which copies are made and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines.base import Base, load_base
from pipelines.device import Device
from pipelines.errors import ConfigError
from pipelines.generate import GenerationConfig, generate
from pipelines.mixer import Mixer
from pipelines.mixing import route as route_module
from pipelines.mixing.slots import Contributions, Slot
from pipelines.offload import Offload, blocks
from pipelines.preparing import offloaded, prepare, restore
from tests.pipelines.making import random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of

CPU = torch.device("cpu")


def aligned(base: Base) -> Base:
    """With weights where copies would lie too: products of mapped ones may round otherwise."""
    for part in parts(base):
        for tensor in (*part.parameters(), *part.buffers()):
            tensor.data = tensor.data.clone()
    return base


def device(how: Any) -> Device:
    return Device(CPU, torch.float32, offload=how)


def outputs(base: Base) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    latents, pixels = torch.randn(1, 4, 8, 8, generator=made), torch.rand(1, 3, 16, 16, generator=made)
    text = base.encode_prompts(["a zwx cat"])
    with torch.no_grad():
        noise = base.unet(latents, torch.tensor(300), text).sample
    return noise, text, base.decode_latents(latents), base.encode_images(pixels)[0]


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def parts(base: Base) -> list[nn.Module]:
    return [*(base.component(name) for name in base.family.components), base.vae]


def tensors(base: Base) -> dict[str, tuple[int, int]]:
    """Which tensors the parts hold, and where their numbers are."""
    return {
        f"{index}.{name}": (id(tensor), tensor.data_ptr())
        for index, part in enumerate(parts(base))
        for name, tensor in (*part.named_parameters(), *part.named_buffers())
    }


def size(module: nn.Module) -> int:
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("how", ["parts", "blocks"])
def test_outputs_are_the_same_bits_and_nothing_stays(tiny_base: Base, how: str) -> None:
    plain, before = outputs(aligned(tiny_base)), tensors(tiny_base)
    prepare(tiny_base, device(how))
    offload = offloaded(tiny_base)
    assert offload is not None
    assert same(outputs(tiny_base), plain)
    assert tensors(tiny_base) == before
    assert offload.resident == 0
    blocks_of = [*blocks(tiny_base.vae), *(blocks(tiny_base.unet) if how == "blocks" else [])]
    assert offload.peak == max(size(m) for m in (tiny_base.text_encoder, *blocks_of))
    restore(tiny_base)
    peak = offload.peak = 0
    assert same(outputs(tiny_base), plain)
    assert offload.peak == peak


def test_the_unet_visits_only_block_by_block(tiny_base: Base) -> None:
    seen: dict[str, int] = {}
    prepare(tiny_base, device("blocks"))
    offload = offloaded(tiny_base)
    assert offload is not None
    for block in blocks(tiny_base.unet):
        name = type(block).__name__
        block.register_forward_pre_hook(lambda *_, name=name: seen.update({name: offload.resident}))
    outputs(tiny_base)
    whole = size(tiny_base.unet)
    assert len(seen) >= 6
    assert all(0 < there < 0.6 * whole for there in seen.values())
    assert sum(size(block) for block in blocks(tiny_base.unet)) == whole


def test_sdxl_with_two_encoders(tiny_folders: dict[str, Path]) -> None:
    base = aligned(load_base(tiny_folders["sdxl"], device="cpu"))
    plain, before = base.condition(["a cat"]), tensors(base)
    prepare(base, device("parts"))
    offload = offloaded(base)
    assert offload is not None
    found = base.condition(["a cat"])
    assert torch.equal(found.hidden, plain.hidden)
    assert plain.pooled is not None
    assert found.pooled is not None
    assert torch.equal(found.pooled, plain.pooled)
    assert offload.peak == max(size(base.text_encoder), size(base.component("text_encoder_2")))
    assert tensors(base) == before


class Watch(TorchDispatchMode):
    """Notes what reckons with weights at home rather than with their copies."""

    def __init__(self, homes: set[int]) -> None:
        super().__init__()
        self.homes, self.wrong, self.seen = homes, set[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.split(".")[0] not in ("_to_copy", "detach", "alias", "copy_", "clone"):
            used = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
            self.seen += len(used)
            self.wrong |= {str(func) for t in used if t.data_ptr() in self.homes}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("how", ["parts", "blocks"])
@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_nothing_reckons_with_weights_at_home(how: str, family: str, tiny_folders: dict[str, Path]) -> None:
    base = load_base(tiny_folders[family], device="cpu")
    prepare(base, device(how))
    with Mixer(base) as mixer:
        mixer.add("a", random_adapter(base, target_modules(base, "all", "attention+mlp")))
        mixer.set({"a": 0.5})
        away = [part for part in parts(base) if how == "blocks" or part is not base.unet]
        homes = {t.data_ptr() for part in away for t in (*part.parameters(), *part.buffers())}
        config = GenerationConfig(prompt="a cat", negative_prompt="dogs", num_inference_steps=1)
        with Watch(homes) as watch:
            generate(base, config)
            for encoder in base.text_encoders():
                base.encode_tokens(encoder, torch.zeros(1, 16, dtype=torch.long), clip_skip=2)
            base.encode_images(torch.zeros(1, 3, 16, 16))
        assert watch.seen > 1000
        assert watch.wrong == set()
        restore_hooks = offloaded(base)
        assert restore_hooks is not None
        restore_hooks.remove()
        with Watch(homes) as watch:
            generate(base, config)
        assert watch.wrong


@pytest.mark.parametrize("route", ["fused", "unfused"])
def test_a_move_of_the_mixer_acts_on_the_next_visit(tiny_base: Base, route: Any) -> None:
    before, plain = weights_of(tiny_base), outputs(aligned(tiny_base))
    adapters = {
        "a": random_adapter(tiny_base, target_modules(tiny_base, "all", "attention+mlp"), strength=0.1),
        "b": random_adapter_of(tiny_base, "loha", rank=8, seed=1, strength=0.1),
    }

    def mixed() -> list[tuple[torch.Tensor, ...]]:
        found: list[tuple[torch.Tensor, ...]] = []
        with Mixer(tiny_base, route=route) as mixer:
            for name, adapter in adapters.items():
                mixer.add(name, adapter)
            for weights in ({"a": 0.5}, {"a": 0.5, "b": -0.7}, {}, {"b": 1.0}):
                mixer.set(weights)
                found.append(outputs(tiny_base))
        return found

    exact = mixed()
    prepare(tiny_base, device("blocks"))
    found = mixed()
    assert all(same(one, other) for one, other in zip(found, exact, strict=True))
    assert same(found[2], plain)
    assert not same(found[0], found[1])
    assert_unchanged(tiny_base, before)
    assert same(outputs(tiny_base), plain)


def test_the_copy_of_the_mix_is_reckoned_where_the_weights_are(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def room(where: torch.device) -> None:
        asked.append(where.type)

    monkeypatch.setattr(route_module, "free_bytes", room)
    tiny_base.text_encoder.final_layer_norm.to("meta")
    norm = Slot("text_encoder.final_layer_norm", "weight", tiny_base.text_encoder.final_layer_norm)
    first = Slot("unet.conv_in", "weight", tiny_base.unet.conv_in)
    found: Contributions = {first.key: (first, {}), norm.key: (norm, {})}
    assert route_module.choose_route(tiny_base, "auto", found, set())[0] == "fused"
    assert asked == ["cpu", "meta"]


class Failing(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.inner, self.error = nn.Linear(3, 3), error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.error is not None:
            raise self.error
        found: torch.Tensor = self.inner(x)
        return found


def test_an_error_gives_the_tensors_back() -> None:
    module, offload = Failing(ValueError("no")), Offload(CPU)
    offload.add_whole(module)
    own = module.inner.weight
    with pytest.raises(ValueError, match="no"):
        module(torch.ones(1, 3))
    assert module.inner.weight is own
    assert offload.resident == 0
    assert offload.peak == size(module)


def test_a_visit_that_was_broken_off_ends_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    module, offload = Failing(KeyboardInterrupt()), Offload(CPU)
    offload.add_whole(module)
    own = module.inner.weight
    with pytest.raises(KeyboardInterrupt):
        module(torch.ones(1, 3))
    own.data.fill_(2.0)
    module.error = None  # type: ignore[assignment]
    assert torch.equal(module(torch.ones(1, 3)), module.inner(torch.ones(1, 3)))
    assert module.inner.weight is own
    assert float((module(torch.ones(1, 3)) - module.inner.bias).detach().min()) == pytest.approx(6.0)
    assert offload.resident == 0


def test_a_copy_that_fails_gives_the_tensors_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import offload as where

    module, offload = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), Offload(CPU)
    done: list[torch.Tensor] = []
    copy = where._copy

    def full(own: torch.Tensor, on: torch.device) -> torch.Tensor:
        if len(done) == 3:
            raise torch.OutOfMemoryError("full")
        done.append(own)
        return copy(own, on)

    offload.add(module)
    before = dict(module.named_parameters())
    monkeypatch.setattr(where, "_copy", full)
    with pytest.raises(torch.OutOfMemoryError):
        module(torch.ones(1, 3))
    assert all(own is before[name] for name, own in module.named_parameters())
    assert offload.resident == 0


def test_tied_weights_are_copied_once_and_layers_may_be_called_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    x, offload = torch.ones(1, 4), Offload(CPU)
    exact = module(x)
    offload.add_whole(module)
    assert torch.equal(module(x), exact)
    assert offload.peak == module[0].weight.nbytes
    alone = module[0](x)
    assert torch.equal(module[1](alone), exact)
    assert offload.peak == module[0].weight.nbytes
    offload.remove()
    assert torch.equal(module(x), exact)


class Growing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def test_layers_that_come_later_visit_too() -> None:
    module, offload, x = Growing(), Offload(CPU), torch.ones(1, 3)
    offload.add_blocks(module)
    module(x)
    assert offload.peak == size(module.first)
    module.later = nn.Linear(3, 300)
    watch = Watch({t.data_ptr() for t in module.parameters()})
    with torch.no_grad(), watch:
        module(x)
    assert watch.wrong == set()
    assert offload.peak == size(module.later)
    handles = len(module.later._forward_pre_hooks)
    module(x)
    assert len(module.later._forward_pre_hooks) == handles == 1
    offload.remove()
    assert not module._forward_pre_hooks
    assert not module.later._forward_pre_hooks


def test_weights_that_learn_get_their_gradients() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)), torch.randn(2, 4)
    module(x).sum().backward()
    exact = [own.grad.clone() for own in module.parameters() if own.grad is not None]
    module.zero_grad()
    Offload(CPU).add_blocks(module)
    module(x).sum().backward()
    found = [own.grad for own in module.parameters() if own.grad is not None]
    assert len(found) == len(exact) == 4
    assert all(torch.equal(one, other) for one, other in zip(found, exact, strict=True))


def test_the_base_under_a_mix_is_not_offloaded(tiny_base: Base) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base))
        with pytest.raises(ConfigError, match="a mix is in the base"):
            prepare(tiny_base, device("parts"))
    assert offloaded(tiny_base) is None
