"""What is chosen for a machine, by rules over made-up cards; and a base put there and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipelines import device as devices
from pipelines.base import Base, load_base
from pipelines.device import Device, Placement, choose_device
from pipelines.errors import ConfigError
from pipelines.generate import GenerationConfig, generate
from pipelines.mixer import Mixer
from pipelines.mixing.vector import Vector
from pipelines.offload import Offload
from pipelines.placement import (
    GIB,
    Card,
    choose_attention,
    choose_channels_last,
    choose_offload,
    choose_slicing,
    choose_tile,
    part_bytes,
    staying_bytes,
)
from pipelines.preparing import offloaded, prepare, restore
from tests.pipelines.making import random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of

# Numbers in the published models, in millions.
SD15 = {"unet": 860, "text_encoder": 123, "vae": 84}
SDXL = {"unet": 2567, "text_encoder": 123, "text_encoder_2": 695, "vae": 84}


def card(gigabytes: float, kind: str = "cuda", bits: int = 16) -> Card:
    return Card(kind, int(gigabytes * GIB), bits, (8, 6) if kind == "cuda" else None)


def sizes(millions: dict[str, int], on: Card, quantised_bits: float | None = None) -> dict[str, int]:
    return part_bytes({part: count * 10**6 for part, count in millions.items()}, on, quantised_bits)


@pytest.mark.parametrize(
    ("model", "gigabytes", "bits", "expected"),
    [
        (SD15, 4, 16, "blocks"),
        (SD15, 6, 16, "none"),
        (SD15, 6, 32, "parts"),
        (SD15, 8, 32, "none"),
        (SDXL, 6, 16, "blocks"),
        (SDXL, 8, 16, "parts"),
        (SDXL, 12, 16, "none"),
        (SDXL, 12, 32, "blocks"),
        (SDXL, 24, 16, "none"),
        (SDXL, 24, 32, "none"),
    ],
)
def test_offload_by_memory_and_model(model: dict[str, int], gigabytes: float, bits: int, expected: str):
    for kind in ("cuda", "rocm", "xpu"):
        on = card(gigabytes, kind, bits)
        assert choose_offload(on, sizes(model, on)) == expected
    for kind in ("cpu", "mps"):
        on = card(gigabytes, kind, bits)
        assert choose_offload(on, sizes(model, on)) == "none"


def test_fewer_bits_need_less_offload() -> None:
    on = card(6)
    assert choose_offload(on, sizes(SDXL, on)) == "blocks"
    assert choose_offload(on, sizes(SDXL, on, quantised_bits=8.1)) == "parts"
    assert choose_offload(card(8), sizes(SDXL, on, quantised_bits=4.5)) == "none"
    assert sizes(SDXL, on, 8.0) == {**sizes(SDXL, on), "unet": 2567 * 10**6}


def test_what_isnt_known_is_left_alone() -> None:
    unknown = Card("xpu", None, 16)
    assert choose_offload(unknown, sizes(SDXL, unknown)) == "none"
    assert choose_offload(card(6), {}) == "none"
    assert choose_tile(unknown, 0) is None
    assert choose_slicing(unknown) is False


def test_what_stays_while_the_vae_works() -> None:
    parts = {"unet": 100, "text_encoder": 20, "vae": 3}
    assert [staying_bytes(parts, how) for how in ("none", "parts", "blocks")] == [123, 103, 3]


@pytest.mark.parametrize(("model", "gigabytes"), [(SD15, 6), (SDXL, 8), (SDXL, 12), (SD15, 12), (SDXL, 24)])
def test_tiles_fit_beside_the_weights(model: dict[str, int], gigabytes: float) -> None:
    on = card(gigabytes)
    parts = sizes(model, on)
    staying = staying_bytes(parts, choose_offload(on, parts))
    side = choose_tile(on, staying)
    assert side is not None
    assert side % 64 == 0
    assert 512 <= side < 4096
    assert side == 512 or staying + side**2 * 2048 * 2 <= on.usable
    assert staying + (side + 64) ** 2 * 2048 * 2 > on.usable


def test_tiles_grow_with_the_memory() -> None:
    found = [choose_tile(card(size), 2 * GIB) for size in (2, 6, 8, 12, 24, 80)]
    assert found == [512, 832, 1088, 1472, 2240, None]
    assert [choose_tile(card(12, bits=bits), 2 * GIB) for bits in (16, 32)] == [1472, 1024]


def test_the_smaller_choices() -> None:
    assert [choose_slicing(card(size)) for size in (6, 8, 12, 24)] == [True, True, False, False]
    assert not choose_slicing(card(8, "cpu"))
    assert choose_channels_last(card(8))
    assert not choose_channels_last(card(8, bits=32))
    assert not any(choose_channels_last(card(8, kind)) for kind in ("rocm", "mps", "xpu", "cpu"))
    assert choose_attention(card(8)) == choose_attention(card(8, "cpu")) == "sdpa"
    assert choose_attention(Card("cuda", 8 * GIB, 16, (7, 5))) == "xformers"


def test_every_choice_is_said_and_can_be_overridden() -> None:
    plain = choose_device("cpu")
    assert (plain.offload, plain.channels_last, plain.vae_slicing, plain.quantise) == (
        "none",
        False,
        False,
        None,
    )
    assert "attention sdpa" in plain.describe()
    wanted = Placement(
        attention="native_math", channels_last=True, vae_tiling=True, vae_slicing=True, offload="blocks"
    )
    chosen = choose_device("cpu", "bf16", wanted)
    said = chosen.describe()
    assert "\n" not in said
    for words in ("CPU, ", "bf16", "attention native_math", "channels last", "VAE in tiles above",
                  "VAE one picture at a time", "offload blocks"):  # fmt: skip
        assert words in said
        assert words in plain.describe() or words not in ("CPU, ",)
    off = choose_device("cpu", None, Placement(vae_tiling=False, offload="none"))
    assert off.vae_tile is None
    assert "tiles" not in off.describe()


def test_unknown_names_offer_the_nearest() -> None:
    for field, name, near in (
        ("attention", "xformer", "did you mean 'xformers'"),
        ("quantise", "int9", "'int8'"),
        ("offload", "all", "'parts'"),
        ("attentoin", "sdpa", "Extra inputs"),
    ):
        with pytest.raises(ValidationError, match=near):
            Placement.model_validate({field: name})
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        choose_device("gpu", None, Placement())


def test_an_old_card_without_xformers_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Card("cuda", 6 * GIB, 16, (7, 5))
    monkeypatch.setattr(devices, "card_of", lambda device, dtype: old)
    monkeypatch.setattr(devices, "failure", lambda *_: "no such package")
    chosen = choose_device("cpu", None, None, {part: n * 10**6 for part, n in SDXL.items()})
    assert (chosen.attention, chosen.offload, chosen.vae_slicing) == ("sdpa", "blocks", True)
    assert "xformers would be tried first here, but: no such package" in chosen.describe()
    monkeypatch.setattr(devices, "failure", lambda *_: None)
    assert choose_device("cpu").attention == "xformers"


def test_homes_and_landings() -> None:
    on = torch.device("cuda:0")
    homes = {
        how: [
            Device(on, torch.float16, offload=how).home(part).type for part in ("unet", "vae", "text_encoder")
        ]
        for how in ("none", "parts", "blocks")
    }
    assert homes == {"none": ["cuda"] * 3, "parts": ["cuda", "cpu", "cpu"], "blocks": ["cpu"] * 3}
    quantised = Device(on, torch.float16, quantise="int8")
    assert [quantised.landing(part).type for part in ("unet", "vae")] == ["cpu", "cuda"]


@pytest.fixture
def small(tiny_base: Base) -> Iterator[Base]:
    yield tiny_base
    assert offloaded(tiny_base) is None or tiny_base.holder is None


def outputs(base: Base) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=made), torch.randn(2, 16, 32, generator=made)
    with torch.no_grad():
        found: torch.Tensor = base.unet(latents, torch.tensor(300), text).sample
    return found


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def on_cpu(**fields: Any) -> Device:
    return Device(torch.device("cpu"), torch.float32, **fields)


def test_channels_last_mixes_exactly(small: Base) -> None:
    """By factors, dense ΔW and DoRA; at zero and after it the base is there bit for bit, layout included."""
    before, plain = weights_of(small), outputs(small)
    adapters = {
        "a": random_adapter(small, target_modules(small, "all", "none"), rank=3, strength=0.1),
        "b": random_adapter_of(small, "loha", rank=8, seed=1, strength=0.1),
        "c": random_adapter_of(small, "dora", seed=2, strength=0.1),
    }
    mix = {"a": 0.8, "b": -0.4, "c": 0.5}

    def mixed(route: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with Mixer(small, route=route) as mixer:
            zero = outputs(small)
            for name, adapter in adapters.items():
                mixer.add(name, adapter)
                assert torch.equal(outputs(small), zero)
            mixer.set(mix)
            found, weights = outputs(small), weights_of(small)
            mixer.set({})
            assert torch.equal(outputs(small), zero)
        return found, weights

    exact, exact_weights = mixed("fused")
    prepare(small, on_cpu(channels_last=True))
    strides = {name: weight.stride() for name, weight in small.unet.named_parameters()}
    laid = [w for w in small.unet.parameters() if w.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in laid)
    assert not all(w.is_contiguous() for w in laid)
    assert relative(outputs(small), plain) < 1e-5
    for route in ("fused", "unfused"):
        found, weights = mixed(route)
        assert relative(found, exact) < 1e-5
        if route == "fused":
            for name, weight in weights.items():
                assert torch.allclose(weight, exact_weights[name], atol=1e-6), name
        assert {name: weight.stride() for name, weight in small.unet.named_parameters()} == strides
        assert_unchanged(small, before)
    assert relative(exact, plain) > 0.05
    restore(small)
    assert all(w.is_contiguous() for w in small.unet.parameters())
    assert torch.equal(outputs(small), plain)


def test_a_fused_layer_keeps_its_layout_while_it_is_mixed(small: Base) -> None:
    prepare(small, on_cpu(channels_last=True))
    names = [name for name in target_modules(small, "all", "none") if small.modules()[name].weight.dim() == 4]
    strides = {name: small.modules()[name].weight.stride() for name in names}
    with Mixer(small, route="fused") as mixer:
        mixer.add("a", random_adapter(small, names))
        mixer.set({"a": 1.0})
        assert {name: small.modules()[name].weight.stride() for name in names} == strides
    assert names


def test_slicing_and_tiling_of_the_vae(small: Base) -> None:
    made = torch.Generator().manual_seed(0)
    latents, pixels = (
        torch.randn(3, 4, 8, 8, generator=made),
        torch.rand(3, 3, 16, 16, generator=made) * 2 - 1,
    )
    whole, encoded = small.decode_latents(latents), small.encode_images(pixels)[0]
    prepare(small, on_cpu(vae_slicing=True))
    assert torch.allclose(small.decode_latents(latents), whole, atol=1e-5)
    one_by_one = torch.cat([small.decode_latents(latents[i : i + 1]) for i in range(3)])
    assert torch.equal(small.decode_latents(latents), one_by_one)
    assert torch.allclose(small.encode_images(pixels)[0], encoded, atol=1e-5)
    prepare(small, on_cpu(vae_tile=16))
    assert small.vae.tile_latent_min_size == 8
    assert torch.equal(small.decode_latents(latents), whole)  # pictures up to a tile are taken whole
    assert not small.vae.use_slicing


def test_tiles_come_near_the_whole(pocket: Base) -> None:
    """On the embedded base's own latents; random weights' tiles differ by what their norms see."""
    made = torch.Generator().manual_seed(0)
    side = pocket.resolution
    ramp = torch.linspace(-1, 1, 2 * side)
    pixels = torch.stack(
        [ramp[None, :].expand(2 * side, -1), ramp[:, None].expand(-1, 2 * side), ramp.flip(0)[:, None] * ramp]
    )
    pixels = (pixels + 0.05 * torch.randn(pixels.shape, generator=made)).clamp(-1, 1)[None]
    latents = pocket.encode_images(pixels)[0]
    whole, before = pocket.decode_latents(latents), pocket.setup
    assert before is not None
    try:
        prepare(pocket, on_cpu(vae_tile=side))
        tiled = pocket.decode_latents(latents)
    finally:
        prepare(pocket, before)
    assert not torch.equal(tiled, whole)
    assert float((tiled - whole).abs().mean()) < 0.1 < float((tiled.flip(0, 2) - whole).abs().mean())
    together = torch.stack([tiled.flatten(), whole.flatten()])
    assert float(torch.corrcoef(together)[0, 1]) > 0.98
    assert torch.equal(pocket.decode_latents(latents), whole)


def test_preparing_twice_and_taking_back(small: Base) -> None:
    plain, processors = outputs(small), dict(small.unet.attn_processors)
    everything = on_cpu(
        attention="native_math", channels_last=True, vae_tile=512, vae_slicing=True, offload="blocks"
    )
    prepare(small, everything)
    once = outputs(small)
    prepare(small, everything)
    assert torch.equal(outputs(small), once)
    assert isinstance(offloaded(small), Offload)
    hooks = sum(len(m._forward_pre_hooks) for m in small.unet.modules())
    prepare(small, everything)
    assert sum(len(m._forward_pre_hooks) for m in small.unet.modules()) == hooks > 0
    prepare(small, on_cpu())
    assert torch.equal(outputs(small), plain)
    assert offloaded(small) is None
    restore(small)
    restore(small)
    assert dict(small.unet.attn_processors) == processors
    assert not small.vae.use_tiling
    assert sum(len(m._forward_pre_hooks) for m in small.unet.modules()) == 0


def test_a_mix_in_the_base_is_not_moved(small: Base) -> None:
    with Mixer(small) as mixer:
        mixer.add("a", random_adapter(small))
        for call in (lambda: prepare(small, on_cpu(channels_last=True)), lambda: restore(small)):
            with pytest.raises(ConfigError, match="restore its mixer"):
                call()


def test_a_vae_that_overflows_in_fp16_runs_in_fp32(tiny_folders: dict[str, Path]) -> None:
    for family, dtype, expected in (
        ("sdxl", "fp16", torch.float32),
        ("sdxl", "bf16", torch.bfloat16),
        ("sd15", "fp16", torch.float16),
    ):
        base = load_base(tiny_folders[family], device="cpu", dtype=dtype)
        assert base.vae.dtype == expected
        assert base.unet.dtype == base.dtype
        assert base.setup is not None
        assert ("VAE in fp32" in base.setup.describe()) == (expected == torch.float32)
        prepare(base, Device(torch.device("cpu"), torch.float16, vae_fp32=family == "sdxl"))
        assert base.vae.dtype == (torch.float32 if family == "sdxl" else torch.float16)


def test_a_vae_in_fp32_takes_smaller_pictures_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "card_of", lambda device, dtype: card(8))
    found = [choose_device("cpu", "fp16", vae_overflows=overflows).vae_tile for overflows in (False, True)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1] < 0.75 * found[0]


def test_a_picture_is_the_same_under_every_offload(small: Base) -> None:
    config = GenerationConfig(prompt="a cat", seed=3, num_inference_steps=2)
    for part in (small.unet, small.text_encoder, small.vae):
        for weight in part.parameters():
            weight.data = weight.data.clone()  # mapped ones may round otherwise than copies
    plain = generate(small, config)[0].image
    for how in ("parts", "blocks"):
        prepare(small, on_cpu(offload=how))
        assert generate(small, config)[0].image.tobytes() == plain.tobytes()


def test_weights_of_a_mix_reach_parameters_on_several_devices() -> None:
    import numpy as np

    cpu, elsewhere = torch.device("cpu"), torch.device("meta")
    indices = [np.array([[0, 1]]), np.array([2]), np.array([3, 3, 0])]
    vector = Vector(indices, [cpu, elsewhere, cpu])
    vector.write(np.array([0.5, 1.5, 2.5, 3.5], dtype=np.float32))
    assert [view.device for view in vector.views] == [cpu, elsewhere, cpu]
    assert [tuple(view.shape) for view in vector.views] == [(1, 2), (1,), (3,)]
    assert vector.views[0].tolist() == [[0.5, 1.5]]
    assert vector.views[2].tolist() == [3.5, 3.5, 0.5]
    assert Vector([], []).views == []
