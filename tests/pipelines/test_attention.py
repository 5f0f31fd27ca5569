"""Attention through diffusers' dispatcher: the same numbers as the UNet's own, put on and taken off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipelines import attention
from pipelines.attention import ATTENTION, DispatchedProcessor, check_attention, failure, put_attention
from pipelines.base import Base
from pipelines.device import Device, Placement, choose_device
from pipelines.errors import ConfigError
from pipelines.generate import GenerationConfig, generate
from pipelines.mixer import Mixer
from pipelines.preparing import prepare
from tests.tiny import random_adapter

CPU = torch.device("cpu")


def outputs(base: Base, width: int = 32) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=made), torch.randn(2, 16, width, generator=made)
    with torch.no_grad():
        found: torch.Tensor = base.unet(latents, torch.tensor(300), text).sample
    return found


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def set_all(base: Base, processor: object) -> None:
    base.unet.set_attn_processor(processor)


@pytest.mark.parametrize("family", ["tiny_base", "tiny_sd2"])
def test_the_native_kernel_gives_the_same_bits(family: str, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(family)
    plain = outputs(base)
    set_all(base, DispatchedProcessor("native"))
    assert torch.equal(outputs(base), plain)
    set_all(base, DispatchedProcessor("_native_math"))
    assert relative(outputs(base), plain) < 1e-5


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_every_kind_of_layer_is_followed(cross: bool, spatial: bool, masked: bool) -> None:
    """Group norm, residual, rescaling, normed queries and context, masks, pictures instead of sequences."""
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    torch.manual_seed(0)
    layer = Attention(
        query_dim=16, heads=2, dim_head=8, bias=True, norm_num_groups=4, residual_connection=True,
        rescale_output_factor=1.7, cross_attention_dim=12 if cross else None,
        cross_attention_norm="layer_norm" if cross else None, qk_norm="layer_norm",
        processor=AttnProcessor2_0(),
    ).eval()  # fmt: skip
    x = torch.randn(2, 16, 4, 4) if spatial else torch.randn(2, 16, 16)
    context = torch.randn(2, 6, 12) if cross else None
    mask = torch.randn(2, 1, 6 if cross else 16) if masked else None
    with torch.no_grad():
        exact = layer(x, encoder_hidden_states=context, attention_mask=mask)
        layer.set_processor(DispatchedProcessor("native"))
        assert torch.equal(layer(x, encoder_hidden_states=context, attention_mask=mask), exact)
        if masked:
            assert not torch.equal(layer(x, encoder_hidden_states=context), exact)


def test_a_kernel_is_put_on_the_unet_and_taken_off(tiny_base: Base) -> None:
    before, vae = dict(tiny_base.unet.attn_processors), dict(tiny_base.vae.attn_processors)
    assert put_attention(tiny_base.unet, "sdpa")() is None
    assert dict(tiny_base.unet.attn_processors) == before
    undo = put_attention(tiny_base.unet, "native_math")
    assert before
    assert all(isinstance(p, DispatchedProcessor) for p in tiny_base.unet.attn_processors.values())
    assert dict(tiny_base.vae.attn_processors) == vae
    undo()
    assert dict(tiny_base.unet.attn_processors) == before


def test_a_processor_of_another_kind_is_kept(tiny_base: Base) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    name, other = next(iter(tiny_base.unet.attn_processors)), AttnProcessor()
    tiny_base.unet.set_attn_processor({**tiny_base.unet.attn_processors, name: other})
    undo = put_attention(tiny_base.unet, "native_math")
    assert tiny_base.unet.attn_processors[name] is other
    others = [key for key in tiny_base.unet.attn_processors if key != name]
    later = AttnProcessor()
    tiny_base.unet.set_attn_processor({**tiny_base.unet.attn_processors, others[0]: later})
    undo()
    assert tiny_base.unet.attn_processors[name] is other
    assert tiny_base.unet.attn_processors[others[0]] is later


@pytest.mark.parametrize("route", ["fused", "unfused"])
def test_a_mix_takes_the_kernel(tiny_base: Base, route: Any) -> None:
    def mixed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with Mixer(tiny_base, route=route) as mixer:
            mixer.add("a", random_adapter(tiny_base))
            zero = outputs(tiny_base)
            mixer.set({"a": 0.7})
            return zero, outputs(tiny_base), outputs(tiny_base)

    zero, exact, _ = mixed()
    prepare(tiny_base, Device(CPU, torch.float32, attention="native_math"))
    own = outputs(tiny_base)
    mine, found, again = mixed()
    assert torch.equal(own, mine)
    assert torch.equal(found, again)
    assert 0 < relative(found, exact) < 1e-5
    assert relative(zero, exact) > 1e-2


def test_pefts_layers_take_the_kernel(tiny_base: Base) -> None:
    from peft import LoraConfig

    tiny_base.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    plain = outputs(tiny_base)
    put_attention(tiny_base.unet, "native_math")
    assert 0 < relative(outputs(tiny_base), plain) < 1e-5


def test_a_picture_through_another_kernel(tiny_base: Base) -> None:
    config = GenerationConfig(prompt="a cat", seed=1, num_inference_steps=2)
    plain = generate(tiny_base, config)[0].image
    prepare(tiny_base, choose_device("cpu", None, Placement(attention="native_flash")))
    assert any(isinstance(p, DispatchedProcessor) for p in tiny_base.unet.attn_processors.values())
    assert generate(tiny_base, config)[0].image.tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", list(ATTENTION))
def test_each_kernel_works_or_says_what_it_needs(name: str, tiny_base: Base) -> None:
    reason = failure(name, CPU, torch.float32)
    if reason is None:
        plain = outputs(tiny_base)
        put_attention(tiny_base.unet, name)
        assert relative(outputs(tiny_base), plain) < 1e-4
        return
    assert "\n" not in reason
    with pytest.raises(ConfigError) as caught:
        choose_device("cpu", None, Placement(attention=name))
    assert ATTENTION[name].needs in str(caught.value)
    assert "or choose 'sdpa'" in str(caught.value)
    assert ATTENTION[name].backend is not None


def test_what_runs_everywhere_does() -> None:
    for name in ("sdpa", "native_math"):
        for dtype in (torch.float32, torch.bfloat16):
            check_attention(name, CPU, dtype)
    with pytest.raises(ConfigError, match="unknown attention 'sdp'; did you mean 'sdpa'"):
        check_attention("sdp", CPU, torch.float32)


def _wrong(query: torch.Tensor, *_: torch.Tensor, **__: object) -> torch.Tensor:
    return query + 1.0


def _raising(error: Exception) -> Callable[..., torch.Tensor]:
    def run(*_: object, **__: object) -> torch.Tensor:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (_wrong, "its result differs from the exact one"),
        (_raising(NotImplementedError("no operator\nfor this device.")), "no operator"),
        (_raising(ImportError()), "ImportError"),
    ],
)
def test_a_kernel_that_fails_the_trial_is_refused(
    run: Callable[..., torch.Tensor], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.models import attention_dispatch

    monkeypatch.setattr(attention_dispatch, "dispatch_attention_fn", run)
    with pytest.raises(ConfigError, match=words) as caught:
        attention.check_attention("native_math", CPU, torch.float32)
    assert "\n" not in str(caught.value)


def test_every_name_is_one_of_diffusers() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    for row in ATTENTION.values():
        assert row.backend is None or AttentionBackendName(row.backend)
