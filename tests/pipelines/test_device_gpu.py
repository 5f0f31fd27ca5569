"""On a CUDA card: every way to put a base there gives the picture that a CPU gives, and mixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.attention import ATTENTION, failure
from pipelines.base import Base, load_base
from pipelines.device import Placement, choose_device
from pipelines.errors import ConfigError
from pipelines.mixer import Mixer
from pipelines.preparing import offloaded
from pipelines.quantised import QUANTISED
from tests.tiny import random_adapter, target_modules

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]


def outputs(base: Base) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=made).to(base.device, base.dtype)
    with torch.no_grad():
        noise = base.unet(latents, torch.tensor(300), base.encode_prompts(["a cat"])).sample
        return torch.cat([noise.float().flatten(), base.decode_latents(latents).float().flatten()]).cpu()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def mixed(base: Base) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The base alone, with a mix, and at zero again."""
    plain = outputs(base)
    with Mixer(base) as mixer:
        mixer.add("a", random_adapter(base, target_modules(base, "all", "attention+mlp"), strength=0.1))
        mixer.set({"a": 0.8})
        found = outputs(base)
        mixer.set({})
        return plain, found, outputs(base)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("offload", ["none", "parts", "blocks"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_offload_and_layout(tiny_base: Base, offload: Any, channels_last: bool, dtype: str) -> None:
    placement = Placement(offload=offload, channels_last=channels_last)
    base = load_base(tiny_base.path, device="cuda", dtype=dtype, placement=placement)
    where = {part: next(base.component(part).parameters()).device.type for part in ("unet", "text_encoder")}
    assert where == {
        "unet": "cpu" if offload == "blocks" else "cuda",
        "text_encoder": "cuda" if offload == "none" else "cpu",
    }
    for found, exact in zip(mixed(base), mixed(tiny_base), strict=True):
        assert relative(found, exact) < (1e-2 if dtype == "fp32" else 0.1)
    state = offloaded(base)
    assert (state is None) == (offload == "none")
    assert state is None or state.resident == 0
    plain, found, zero = mixed(base)
    assert torch.equal(plain, zero)
    assert not torch.equal(plain, found)


@pytest.mark.parametrize("name", list(ATTENTION))
def test_kernels(name: str, tiny_base: Base) -> None:
    reason = failure(name, torch.device("cuda"), torch.bfloat16)
    if reason is not None:
        pytest.skip(reason)
    base = load_base(tiny_base.path, device="cuda", dtype="bf16", placement=Placement(attention=name))
    assert relative(outputs(base), outputs(tiny_base)) < 0.1


@pytest.mark.parametrize("offload", ["none", "parts", "blocks"])
@pytest.mark.parametrize("name", list(QUANTISED))
def test_fewer_bits(name: str, offload: Any, tiny_base: Base) -> None:
    pytest.importorskip(QUANTISED[name].package, reason=f"{QUANTISED[name].package} isn't installed")
    placement = Placement(quantise=name, offload=offload)
    try:
        choose_device("cuda", "bf16", placement)
        base = load_base(tiny_base.path, device="cuda", dtype="bf16", placement=placement)
    except ConfigError as error:
        pytest.skip(str(error))
    plain, found, zero = mixed(base)
    assert torch.equal(plain, zero)
    assert relative(found, mixed(tiny_base)[1]) < 0.3
