"""Weights per block and over the denoising steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.families import block_of
from pipelines.generate import GenerationConfig, generate
from pipelines.mixer import Mixer, Weight, Weights
from tests.pipelines.making import random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of


def everywhere(base: Base) -> list[str]:
    return target_modules(base, "all", "attention+mlp")


@pytest.mark.filterwarnings("error")
def test_a_rank_of_one_is_mixed_without_a_new_room(tiny_base: Base) -> None:
    name = (
        "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"  # twice four times as high as wide
    )
    layer = tiny_base.modules()[name]
    adapter, own = random_adapter(tiny_base, [name], rank=1), layer.weight.detach().clone()
    with Mixer(tiny_base) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 0.5})
        torch.testing.assert_close(layer.weight.detach(), own + 0.5 * adapter.factors[name].delta())


def test_blocks_multiply_the_weight_where_they_say(tiny_base: Base) -> None:
    own = {name: layer.weight.detach().clone() for name, layer in tiny_base.modules().items()}
    lora = random_adapter(tiny_base, everywhere(tiny_base))
    dense = random_adapter_of(tiny_base, "full", everywhere(tiny_base), seed=1)
    blocks = {"down_blocks.0": 0.5, "mid_block": 0.0, "up_blocks.1": -1.0}
    with Mixer(tiny_base) as mixer:
        mixer.add("lora", lora)
        mixer.add("dense", dense)
        assert {"conv_in", "text_encoder", *blocks} < set(mixer.blocks)
        mixer.set({"lora": Weights(1.5, text=0.25, blocks=blocks), "dense": 0.5})
        for name, layer in tiny_base.modules().items():
            weight = 0.25 if name.startswith("text_") else 1.5 * blocks.get(block_of(name), 1.0)
            exact = own[name].double() + weight * lora.factors[name].delta().double()
            exact += 0.5 * dense.factors[name].delta().double()
            assert (layer.weight.double() - exact).norm() / exact.norm() < 1e-6, name


def test_blocks_at_zero_leave_their_weights_bit_for_bit(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base, everywhere(tiny_base)))
        mixer.set({"a": Weights(1.0, blocks=dict.fromkeys(mixer.blocks, 0.0) | {"mid_block": 1.0})})
        for name, value in weights_of(tiny_base).items():
            assert torch.equal(value, before[name]) or name.startswith("unet.mid_block"), name
        mixer.set({"a": Weights(1.0, blocks=dict.fromkeys(mixer.blocks, 0.0))})
        assert_unchanged(tiny_base, before)


def test_blocks_split_no_stacks(tiny_base: Base) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base))
        stacks = list(mixer._engine.fused._stacks)
        shapes = {(n.split(".")[0], tiny_base.modules()[n].weight.shape) for n in target_modules(tiny_base)}
        mixer.set({"a": Weights(1.0, blocks={"down_blocks.0": 0.5, "mid_block": 2.0})})
        assert mixer._engine.fused._stacks == stacks
        assert len(stacks) == len(shapes)


def test_a_text_encoder_of_two_is_a_block(tiny_sdxl: Base) -> None:
    before = weights_of(tiny_sdxl)
    with Mixer(tiny_sdxl) as mixer:
        mixer.add("a", random_adapter_of(tiny_sdxl, "lora"))
        mixer.set({"a": Weights(0.0, text=1.0, blocks={"text_encoder_2": 0.0})})
        changed = {
            name.split(".")[0]
            for name, v in weights_of(tiny_sdxl).items()
            if not torch.equal(v, before[name])
        }
    assert changed == {"text_encoder"}


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        (Weights(), [1, 1, 1, 1, 1]),
        (Weights(begin=0.5, end=0.5), [0, 0, 1, 1, 1]),
        (Weights(begin=0.25, end=0.75), [0, 0, 0.5, 1, 1]),
        (Weights(begin=0.0, end=1.0), [0, 0.25, 0.5, 0.75, 1]),
        (Weights(begin=0.75, end=0.25), [1, 1, 0.5, 0, 0]),
        (Weights(begin=1.0, end=0.0), [1, 0.75, 0.5, 0.25, 0]),
        (Weights(begin=1.0, end=1.0), [0, 0, 0, 0, 1]),
    ],
)
def test_the_share_over_the_denoising(weights: Weights, shares: list[float]) -> None:
    assert [weights.share(progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == shares


def test_steps_write_the_unet_of_that_step_and_only_when_it_differs(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = random_adapter(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("a", lora)
        mixer.add("b", random_adapter(tiny_base, rank=1, seed=1))
        ramp = Weights(1.2, text=-0.5, begin=0.25, end=0.75)
        mixer.set({"a": ramp, "b": 0.3})
        full = weights_of(tiny_base)
        written: list[int] = []
        real = torch.baddbmm

        def counted(*args: Any, **kw: Any) -> Any:
            written.append(0)
            return real(*args, **kw)

        monkeypatch.setattr(torch, "baddbmm", counted)
        steps, counts = [], []
        for step in range(8):
            written.clear()
            mixer.at(step, 8)
            steps.append(weights_of(tiny_base))
            counts.append(len(written))
        assert [count > 0 for count in counts] == [True, False, False, True, True, True, True, False]
        stacks = mixer._engine.fused._stacks
        assert max(counts) == sum(stack.kept.slots[0].component == "unet" for stack in stacks) < len(stacks)
        for step, seen in enumerate(steps):
            mixer.set({"a": (1.2 * ramp.share(step / 8), -0.5), "b": 0.3})
            assert_unchanged(tiny_base, seen)
        mixer.set({"a": ramp, "b": 0.3})
        mixer.at(0, 8)
        mixer.rest()
        assert_unchanged(tiny_base, full)
        assert mixer.settings["a"] == ramp
        assert mixer.weights == {"a": (1.2, -0.5), "b": (0.3, 0.3)}


def test_steps_cost_nothing_without_a_ramp(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base))
        mixer.set({"a": 1.0})
        monkeypatch.setattr(type(mixer._engine), "write", lambda *_: pytest.fail("written"))
        mixer.at(3, 8)
        mixer.rest()
        monkeypatch.undo()


@pytest.mark.parametrize("route", ["fused", "unfused"])
def test_a_generated_picture_follows_the_ramp(tiny_base: Base, route: str) -> None:
    """On from the start is the constant; a switch at the middle differs from both ends."""
    config = GenerationConfig(prompt="zwx", seed=3, num_inference_steps=4)
    with Mixer(tiny_base, route=route) as mixer:  # type: ignore[arg-type]
        mixer.add("a", random_adapter(tiny_base, strength=2.0))

        def draw(weights: Mapping[str, Weight]) -> bytes:
            mixer.set(weights)
            return generate(tiny_base, config)[0].image.tobytes()

        on, off = draw({"a": (1.0, 0.0)}), draw({"a": 0.0})
        middle = draw({"a": Weights(1.0, text=0.0, begin=0.5, end=0.5)})
        early = draw({"a": Weights(1.0, text=0.0, begin=1.0, end=0.999)})
        late = draw({"a": Weights(1.0, text=0.0, begin=1.0, end=1.0)})
        assert early == on
        assert late == off
        assert middle not in (on, off)
        mixer.rest()
        assert mixer.settings["a"].begin == 1.0


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (Weights(4.0), "choose from -2 to 3"),
        (Weights(1.0, text=-2.5), "choose from -2 to 3"),
        (Weights(2.0, blocks={"mid_block": 2.0}), "in mid_block is 4; choose from -2 to 3"),
        (Weights(1.0, blocks={"mid_blok": 1.0}), "name block 'mid_blok'; did you mean 'mid_block'"),
        (Weights(1.0, blocks={"mid_block": float("nan")}), "choose from -2 to 3"),
        (Weights(1.0, blocks={"mid_block": "1"}), "expected a number"),  # type: ignore[dict-item]
        (Weights("1"), "expected a number"),  # type: ignore[arg-type]
        (Weights(1.0, begin=-0.1), "begin of 'a' is -0.1; expected a share of the denoising from 0 to 1"),
        (Weights(1.0, end=1.5), "end of 'a' is 1.5"),
        (Weights(1.0, end=float("nan")), "end of 'a' is nan"),
    ],
)
def test_refused_weights_change_nothing(tiny_base: Base, weights: Weights, says: str) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base))
        mixer.set({"a": 0.5})
        before = weights_of(tiny_base)
        with pytest.raises(AdapterError, match=says):
            mixer.set({"a": weights})
        assert_unchanged(tiny_base, before)
        assert mixer.weights == {"a": (0.5, 0.5)}
