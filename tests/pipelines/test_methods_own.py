"""The methods that PEFT lacks: closed forms by hand, identity, gradients, what a resume needs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base
from pipelines.errors import ConfigError
from pipelines.families import with_text_model
from pipelines.formats import read_adapter, write_adapter
from pipelines.methods import METHODS, TUNED_AS, TUNINGS
from pipelines.methods.delta_lora import RATIO
from pipelines.methods.mora import side_for
from pipelines.methods.own_layer import OwnLayer
from pipelines.methods.qalora import group_for
from pipelines.methods.tuning import Size
from pipelines.mixer import Mixer
from tests.tiny import assert_unchanged, weights_of

OWN = [tuning.id for tuning in TUNINGS.values() if tuning.layer is not None]
ON_LAYERS = [id for id in OWN if "linear" in TUNINGS[id].sits_on]
SIZE = Size(rank=3, alpha=6.0)


def made(tuning: str, module: nn.Module, size: Size = SIZE, seed: int = 0) -> Any:
    """A fresh layer of a tuning in a frozen module's place."""
    make = TUNINGS[tuning].layer
    assert make is not None
    torch.manual_seed(seed)
    return make(module.requires_grad_(False), size)


def stir(layer: OwnLayer, seed: int = 1, size: float = 0.2) -> None:
    """Give everything that is trained other numbers."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.trained().values():
        parameter.data += size * torch.randn(parameter.shape, generator=generator)


def linear(inner: int = 20, out: int = 14, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(7)
    return nn.Linear(inner, out).to(dtype)


def places(base: Base, tuning: str) -> list[str]:
    """Some modules of a base that a tuning can sit on."""
    row = TUNINGS[tuning]
    if row.sits_on == ("attention",):
        return list(base.attentions())
    endings = row.endings or ("to_q", "to_out.0", "ff.net.2", "k_proj")
    found = [name for name in base.modules() if name.endswith(tuple(f".{ending}" for ending in endings))]
    kinds = (nn.Linear, nn.Conv2d) if "conv" in row.sits_on else nn.Linear
    return [name for name in found if isinstance(base.modules()[name], kinds)]


@contextmanager
def trained(base: Base, tuning: str) -> Iterator[dict[str, Any]]:
    """Fresh layers in a base, by canonical name; taken out again."""
    layers: dict[str, Any] = {}
    homes = {}
    for name in places(base, tuning):
        component, path = name.split(".", 1)
        root = base.component(component)
        try:
            module = root.get_submodule(path)
        except AttributeError:
            path = with_text_model(path)
            module = root.get_submodule(path)
        parent, _, leaf = path.rpartition(".")
        homes[name] = root.get_submodule(parent), leaf
        layers[name] = made(tuning, module, seed=len(layers))
        setattr(*homes[name], layers[name])
    try:
        yield layers
    finally:
        for name, layer in layers.items():
            setattr(*homes[name], layer.base_layer)


def answer(base: Base) -> list[Tensor]:
    """What text encoders and UNet make of a fixed input."""
    told = base.condition(["a fox in snow", "zwx"])
    generator = torch.Generator().manual_seed(3)
    channels, side = base.in_channels, int(base.unet.config["sample_size"])
    latents = torch.randn(2, channels, side, side, generator=generator)
    pooled = None
    if told.pooled is not None:
        pooled = {"text_embeds": told.pooled, "time_ids": torch.full((2, 6), float(base.resolution))}
    return [told.hidden, base.unet(latents, 7, told.hidden, added_cond_kwargs=pooled).sample]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("tuning", "family"),
    [*((id, "tiny_base") for id in OWN), ("prefix", "tiny_sd2"), ("prefix", "tiny_sdxl"),
     ("bitfit", "tiny_sdxl"), ("bottleneck", "tiny_sdxl")],
)  # fmt: skip
def test_it_starts_as_the_base_and_the_mixer_makes_what_was_trained(
    request: pytest.FixtureRequest, tuning: str, family: str
) -> None:
    base: Base = request.getfixturevalue(family)
    before, plain = weights_of(base), answer(base)
    with trained(base, tuning) as layers:
        assert same(answer(base), plain)
        for index, layer in enumerate(layers.values()):
            stir(layer, index)
            layer.after_step(1, 1)
            stir(layer, index + 1, 0.05)
        learned = answer(base)
        learned[1].square().mean().backward()
        # SDXL's UNet doesn't see the first text encoder's last layer.
        unused = "text_encoder.encoder.layers.1." if base.family.id == "sdxl" else "none"
        trains = [p for n, layer in layers.items() for p in layer.trained().values() if unused not in f"{n}."]
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trains)
        for layer in layers.values():
            layer.enabled = False
        assert same(answer(base), plain)
        method = TUNED_AS[tuning].id
        factors = {name: layer.factors(method) for name, layer in layers.items()}
        for layer in layers.values():
            layer.restore()
    assert all(p.grad is None for c in base.family.components for p in base.component(c).parameters())
    assert_unchanged(base, before)
    adapter = Adapter(name="a", factors=factors, family=base.family.id, method=method)
    adapter.check(base)
    with Mixer(base) as mixer, torch.no_grad():
        mixer.add("a", adapter)
        assert same(answer(base), plain)
        mixer.set({"a": 1.0})
        for found, wanted, old in zip(answer(base), learned, plain, strict=True):
            assert torch.allclose(found, wanted, atol=2e-5, rtol=1e-5)
            assert tuning == "prefix" or old is plain[0] or not torch.allclose(found, old, atol=1e-3)
        mixer.set({"a": 0.0})
        assert same(answer(base), plain)
    assert_unchanged(base, before)


@pytest.mark.parametrize("tuning", ON_LAYERS)
def test_a_base_in_half_precision_keeps_it_and_parameters_are_fp32(tuning: str) -> None:
    module = linear(dtype=torch.bfloat16)
    layer = made(tuning, module)
    x = torch.randn(2, 5, 20).to(torch.bfloat16)
    assert torch.equal(layer(x), module(x))
    stir(layer)
    found = layer(x)
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    assert {p.dtype for p in layer.trained().values()} == {torch.float32}
    assert all(p.grad is not None and bool(p.grad.any()) for p in layer.trained().values())
    factors, weight = layer.factors(TUNED_AS[tuning].id), module.weight.float()
    if factors.has_delta:
        assert module.bias is not None
        bias = factors.bias_delta(module.bias.float())
        bias = module.bias.float() + (0 if bias is None else bias)
        exact = functional.linear(x.float(), weight + factors.delta(weight), bias).detach()
        assert float((found.detach().float() - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("tuning", OWN)
def test_it_learns_in_mixed_precision_and_through_recomputation(tuning: str, tiny_base: Base) -> None:
    prefix = tuning == "prefix"
    module = copy.deepcopy(next(iter(tiny_base.attentions().values()))) if prefix else linear()
    layer, x = made(tuning, module), torch.randn(2, 5, 32 if prefix else 20)
    stir(layer)

    def call() -> Tensor:
        found: Tensor = layer(hidden_states=x)[0] if prefix else layer(x)
        return found

    def gradients(found: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(found.float().square().sum(), list(layer.trained().values())))

    exact, wanted = call().detach(), gradients(call())
    again = checkpoint(call, use_reentrant=False)
    assert torch.equal(again, exact)
    assert all(torch.equal(one, other) for one, other in zip(gradients(again), wanted, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        halved = call()
    assert halved.dtype == torch.bfloat16
    assert float((halved.detach().float() - exact).norm() / exact.norm()) < 0.02
    for one, other in zip(gradients(halved), wanted, strict=True):
        assert one.dtype == torch.float32 and float((one - other).norm() / other.norm()) < 0.1


@pytest.mark.parametrize("tuning", OWN)
def test_a_resumed_layer_goes_on_bit_for_bit(tuning: str, tiny_base: Base) -> None:
    prefix = tuning == "prefix"
    module = copy.deepcopy(next(iter(tiny_base.attentions().values()))) if prefix else linear()
    x = torch.randn(2, 5, 32 if prefix else 20)

    def call(layer: Any) -> Tensor:
        result: Tensor = layer(hidden_states=x)[0] if prefix else layer(x)
        return result

    first = made(tuning, module)
    stir(first)
    first.after_step(1, 2)
    stir(first, 2)
    second = made(tuning, module, seed=9)
    names = second.extra().keys()
    for name, parameter in second.trained().items():
        parameter.data.copy_(first.trained()[name])
    second.load_extra({name: value.clone() for name, value in first.extra().items()})
    assert first.extra().keys() == names
    for layer in (first, second):
        layer.after_step(2, 2)
        stir(layer, 3)
    assert torch.equal(call(first), call(second))
    method = TUNED_AS[tuning].id
    one, other = first.factors(method), second.factors(method)
    assert (one.alpha, one.options, one.parts.keys()) == (other.alpha, other.options, other.parts.keys())
    assert all(torch.equal(one.parts[name], other.parts[name]) for name in one.parts)


@pytest.mark.parametrize("tuning", OWN)
def test_what_was_trained_comes_back_from_a_file(tiny_base: Base, tmp_path: Path, tuning: str) -> None:
    with trained(tiny_base, tuning) as layers:
        for index, layer in enumerate(layers.values()):
            stir(layer, index)
        method = TUNED_AS[tuning].id
        factors = {name: layer.factors(method) for name, layer in layers.items()}
    adapter = Adapter(name="a", factors=factors, method=method)
    write_adapter(adapter, tmp_path / "a.safetensors", "pigment", "fp32")
    back = read_adapter(tmp_path / "a.safetensors")
    back.check(tiny_base)
    assert back.methods == (method,)
    for name, factor in factors.items():
        found = back.factors[name]
        assert (found.alpha, dict(found.options)) == (factor.alpha, dict(factor.options))
        assert all(torch.equal(found.parts[part], value) for part, value in factor.parts.items())


@pytest.mark.parametrize(("inner", "out"), [(20, 14), (14, 20), (5, 60), (60, 5), (12, 12)])
def test_mora_rotates_pieces_of_its_input(inner: int, out: int) -> None:
    """By hand: pairs (j, j + r̂/2) as complex numbers, turned by i · 10000^(−2j/r̂) in piece i."""
    module = linear(inner, out)
    layer = made("mora", module)
    side = side_for(SIZE.rank, inner, out)
    assert layer.mora_m.shape == (side, side)
    assert side % 2 == 0 and side**2 <= 3 * (inner + out) < (side + 2) ** 2
    stir(layer)
    square, x = layer.mora_m.detach().double(), torch.randn(inner).double()
    pieces = -(-inner // side)
    padded = torch.stack([x[index % inner] for index in range(pieces * side)])
    made_of: list[Tensor] = []
    for i in range(pieces):
        piece = padded[i * side : (i + 1) * side]
        complex_ = torch.complex(piece[: side // 2], piece[side // 2 :])
        speeds = 10_000.0 ** (-2 * torch.arange(side // 2, dtype=torch.float64) / side)
        turned = complex_ * torch.polar(torch.ones_like(speeds), i * speeds)
        made_of.append(square @ torch.cat([turned.real, turned.imag]))
    whole = torch.cat(made_of)
    expected = torch.stack([whole[index % len(whole)] for index in range(out)])
    found = (layer(x.float()) - module(x.float())).double()
    assert torch.allclose(found, expected, atol=1e-5)
    delta = layer.factors("mora").delta(module.weight)
    assert torch.allclose((delta.double() @ x), expected, atol=1e-5)
    # The rank isn't bounded by LoRA's.
    assert torch.linalg.matrix_rank(delta) > SIZE.rank or min(inner, out) <= SIZE.rank + 2


@pytest.mark.parametrize(("inner", "group"), [(64, 32), (20, 20), (33, 11), (320, 32), (7, 7), (37, 1)])
def test_qalora_sums_its_input_in_groups(inner: int, group: int) -> None:
    assert group_for(inner) == group
    module = linear(inner, 6)
    layer = made("qalora", module)
    stir(layer)
    x = torch.randn(2, inner)
    sums = torch.stack([x[:, i * group : (i + 1) * group].sum(1) for i in range(inner // group)], dim=1)
    expected = module(x) + 6.0 / 3 * sums @ layer.down.T @ layer.up.T
    assert torch.allclose(layer(x), expected, atol=1e-5)
    kept = layer.factors("lora")
    assert isinstance(kept, LowRank) and kept.rank == 3
    assert torch.allclose(x @ (module.weight + kept.delta()).T + module.bias, expected, atol=1e-5)
    columns = kept.delta().unflatten(1, (-1, group))
    assert torch.equal(columns, columns[..., :1].expand_as(columns))  # what zero points of groups can hold


def test_delta_lora_moves_the_weight_as_the_paper_does() -> None:
    """W_t+1 = W_t + λ · s · (B_t+1 A_t+1 − B_t A_t), added up step by step from step K on."""
    module = linear()
    own = module.weight.detach().clone()
    layer = made("delta_lora", module)
    scale, weight, x = 6.0 / 3, module.weight.detach().double(), torch.randn(4, 20)

    def product() -> Tensor:
        return layer.up.detach().double() @ layer.down.detach().double()

    for step in range(1, 31):  # K is step 3
        before = product()
        stir(layer, step, 0.03)
        layer.after_step(step, 30)
        if step > 3:
            weight += RATIO * scale * (product() - before)
        expected = x.double() @ (weight + scale * product()).T + module.bias.double()
        assert torch.allclose(layer(x).double(), expected, atol=1e-4), step
        kept = layer.factors("lora")
        assert kept.rank == (3 if step < 3 else 6)
        assert torch.allclose((own + kept.delta()).double(), weight + scale * product(), atol=1e-4), step
    assert torch.equal(module.weight, own)
    # Only LoRA's own term has a gradient.
    layer(x).sum().backward()
    exact = scale * torch.ones(4, 14).T @ (x @ layer.down.detach().T)
    assert torch.allclose(layer.up.grad, exact, atol=1e-4)


def test_full_and_bitfit_add_to_weights_and_biases() -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    x = torch.randn(2, 4, 9, 9)
    full, bias = made("full", conv), made("bitfit", conv)
    stir(full)
    stir(bias)
    exact = functional.conv2d(x, conv.weight + full.diff, conv.bias + full.diff_b, 2, 1)
    assert torch.allclose(full(x), exact, atol=1e-6)
    assert torch.allclose(
        bias(x), functional.conv2d(x, conv.weight, conv.bias + bias.diff_b, 2, 1), atol=1e-6
    )
    assert made("full", nn.Linear(3, 2, bias=False)).trained().keys() == {"diff"}
    with pytest.raises(ConfigError, match="without a bias can't be tuned by BitFit"):
        made("bitfit", nn.Linear(3, 2, bias=False))
    packed = nn.Linear(3, 2)
    packed.weight = nn.Parameter(torch.ones(2, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="can't sit on a quantised layer"):
        made("full", packed)


def test_every_layer_that_bitfit_names_has_a_bias(tiny_base: Base, tiny_sdxl: Base) -> None:
    for base in (tiny_base, tiny_sdxl):
        chosen = places(base, "bitfit")
        layers = base.modules()
        assert all(layers[name].bias is not None for name in chosen)
        assert any(name.endswith("to_out.0") for name in chosen)
        others = {name for name in layers if ".attn" in name or "mlp" in name} - set(chosen)
        assert all(layers[name].bias is None for name in others)


def test_a_bottleneck_is_two_layers_behind_another() -> None:
    module = linear()
    layer = made("bottleneck", module)
    stir(layer)
    x = torch.randn(3, 20)
    y, parts = module(x), layer.parts()
    inner = y @ parts["bottleneck_down"].T + parts["bottleneck_down_b"]
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    expected = y + inner @ parts["bottleneck_up"].T + parts["bottleneck_up_b"]
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("mask", ["none", "numbers", "flags"])
def test_prefixes_with_an_open_gate_share_one_softmax_with_the_text(tiny_base: Base, mask: str) -> None:
    """With a gate of 1 it's prefix tuning: keys and values put before the text's, seen by every position."""
    attention: Any = copy.deepcopy(next(iter(tiny_base.attentions().values())))
    layer = made("prefix", attention)
    stir(layer)
    layer.prefix_gate.data.fill_(1.0)
    x, heads, width = torch.randn(2, 5, 32), attention.num_heads, attention.head_dim
    past = torch.ones(5, 5, dtype=torch.bool).tril()
    given: Mapping[str, Tensor | None] = {
        "none": None,
        "numbers": torch.zeros(5, 5).masked_fill(~past, torch.finfo(torch.float32).min)[None, None],
        "flags": past[None, None],
    }
    named = {"attention_mask": given[mask], "is_causal": True}

    def split(values: Tensor) -> Tensor:
        return values.unflatten(-1, (heads, width)).transpose(-3, -2)

    queries, keys, values = (
        split(part(x)) for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    more_keys, more_values = (split(part).expand(2, -1, -1, -1) for part in (layer.prefix_k, layer.prefix_v))
    sees = torch.cat([torch.ones(5, 3, dtype=torch.bool), past], dim=1)
    mixed = functional.scaled_dot_product_attention(
        queries, torch.cat([more_keys, keys], 2), torch.cat([more_values, values], 2), attn_mask=sees
    )
    expected = attention.out_proj(mixed.transpose(1, 2).flatten(-2))
    assert torch.allclose(layer(hidden_states=x, **named)[0], expected, atol=1e-5)
    # And half open, halfway there.
    layer.prefix_gate.data.fill_(0.5)
    plain = attention(hidden_states=x, **named)[0]
    assert torch.allclose(layer(hidden_states=x, **named)[0], (plain + expected) / 2, atol=1e-5)
    assert not attention.out_proj._forward_pre_hooks and not attention._forward_pre_hooks


def test_rows_without_a_change_of_weights_say_what_they_do_instead() -> None:
    for row in METHODS.values():
        assert (row.delta is None) == bool(row.no_delta)
        assert row.attach is None or row.delta is None
        assert not row.on_attention or row.attach is not None
