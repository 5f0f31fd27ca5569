"""Memory: the ways to need less change no gradient, the peak is a peak, and advice can be followed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from pipelines.attention import ATTENTION, put_attention
from pipelines.base import Base, load_base
from pipelines.errors import ConfigError, StudioError
from pipelines.placement import Placement
from pipelines.preparing import offloaded
from trainers.config import TrainConfig
from trainers.memory import (
    CHECKPOINTING,
    advice,
    check_gradient,
    checkpointing,
    explained,
    out_of_memory,
    parked,
    placement,
)
from trainers.settings import RunConfig
from trainers.settings.run import CHECKPOINTING_NAMES

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
ENDINGS = ["to_q", "to_v", "to_out.0", "ff.net.2", "q_proj", "fc1"]


def with_adapters(base: Base, dropout: float = 0.0) -> dict[str, torch.nn.Parameter]:
    """Put LoRA that changes something into UNet and text encoders; returns what learns."""
    made = torch.Generator().manual_seed(4)
    for name in base.family.components:
        module = base.component(name)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=ENDINGS, lora_dropout=dropout), module)
        for path, parameter in module.named_parameters():
            if "lora_" in path:
                parameter.data = torch.randn(parameter.shape, generator=made) * 0.1
    return {
        f"{name}.{path}": parameter
        for name in base.family.components
        for path, parameter in base.component(name).named_parameters()
        if parameter.requires_grad
    }


def gradients(base: Base, learning: dict[str, torch.nn.Parameter]) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a loss over UNet and text encoders, and the bytes kept for them by autograd."""
    made = torch.Generator().manual_seed(6)
    latents = torch.randn(2, 4, 8, 8, generator=made)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        told = base.condition(["a disc", "a cat"])
        out = base.unet(latents, torch.tensor([3, 700]), **told.arguments((16, 16))).sample
        loss = (out * torch.randn(out.shape, generator=made)).mean()
    loss.backward()
    found = {
        name: parameter.grad.clone() for name, parameter in learning.items() if parameter.grad is not None
    }
    for parameter in learning.values():
        parameter.grad = None
    return found, sum(kept.values())


def test_the_settings_names_are_the_tables_keys() -> None:
    assert ("auto", *CHECKPOINTING) == CHECKPOINTING_NAMES


@pytest.mark.parametrize("fixture", ["tiny_base", "tiny_sdxl"])
def test_recomputing_changes_no_gradient(fixture: str, request: pytest.FixtureRequest) -> None:
    base: Base = request.getfixturevalue(fixture)
    learning = with_adapters(base, dropout=0.3)
    plain, bytes_plain = gradients(base, learning)
    # The encoders' last layer isn't seen by SDXL's UNet.
    assert {name.split(".")[0] for name in plain} == set(base.family.components)
    sizes = {"none": bytes_plain}
    for mode in ("selective", "all"):
        with checkpointing(base, mode, trained=base.text_encoders()):
            found, sizes[mode] = gradients(base, learning)
        assert all(torch.equal(found[name], plain[name]) for name in plain), mode
    assert sizes["all"] < 0.5 * sizes["selective"] < 0.5 * sizes["none"]
    # Nothing is left behind, also where nothing was asked for.
    with checkpointing(base, "none"):
        pass
    again, bytes_again = gradients(base, learning)
    assert bytes_again == pytest.approx(bytes_plain, rel=0.01)
    assert all(torch.equal(again[name], plain[name]) for name in plain)
    assert not any("forward" in vars(module) for module in base.unet.modules())


def test_selective_takes_feed_forward_layers_and_blocks_at_full_size(tiny_base: Base) -> None:
    with checkpointing(tiny_base, "selective"):
        taken = {name for name, module in tiny_base.unet.named_modules() if "forward" in vars(module)}
    full = {name for name in taken if name.startswith(("down_blocks.0.", "up_blocks.1."))}
    assert {"down_blocks.0.resnets.0", "down_blocks.0.attentions.0.transformer_blocks.0"} < full
    assert taken - full == {"mid_block.attentions.0.transformer_blocks.0.ff"}


def test_a_text_encoder_that_does_not_learn_is_not_recomputed(tiny_base: Base) -> None:
    with checkpointing(tiny_base, "all"):
        assert not any("forward" in vars(module) for module in tiny_base.text_encoder.modules())
        assert any("forward" in vars(module) for module in tiny_base.unet.modules())


@pytest.mark.parametrize("attention", ["sdpa", "native_math", "native_flash"])
def test_a_kernel_with_a_gradient_trains_the_same(attention: str, tiny_base: Base) -> None:
    learning = with_adapters(tiny_base)
    exact, _ = gradients(tiny_base, learning)
    check_gradient(attention, CPU, torch.float32)
    put_attention(tiny_base.unet, attention)
    found, _ = gradients(tiny_base, learning)
    for name, gradient in exact.items():
        assert torch.allclose(found[name], gradient, atol=1e-6, rtol=1e-3), name


def dispatched(spoil: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A stand-in for diffusers' dispatcher: right in value, `spoil`ed for the backward pass."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: object) -> torch.Tensor:
        turned = (x.transpose(1, 2) for x in (q, k, v))
        return spoil(torch.nn.functional.scaled_dot_product_attention(*turned).transpose(1, 2))  # type: ignore[arg-type]

    return call


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (torch.detach, "'native_math' has no gradient"),
        (lambda x: 2 * x - x.detach(), "differs from the exact"),
    ],
    ids=["none", "wrong"],
)
def test_a_kernel_without_a_right_gradient_is_refused(
    spoil: Callable[[torch.Tensor], torch.Tensor], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.models import attention_dispatch

    monkeypatch.setattr(attention_dispatch, "dispatch_attention_fn", dispatched(spoil))
    with pytest.raises(ConfigError, match=words):
        check_gradient("native_math", CPU, torch.float32)
    missing = next(name for name in ATTENTION if name == "flash3")
    with pytest.raises(ConfigError, match="doesn't run on cpu"):
        placement(RunConfig(output=Path("run"), attention=missing), CPU, torch.float32)


def test_a_run_says_where_its_base_is_put() -> None:
    usual = RunConfig(output=Path("run"))
    assert placement(usual, CPU, torch.float32) == Placement(offload="none")
    assert placement(usual, torch.device("cuda"), torch.bfloat16) == Placement(offload="parts")
    asked = RunConfig(
        output=Path("run"), attention="native_math", channels_last=True, quantise="int8", offload="parts"
    )
    assert placement(asked, CPU, torch.float32) == Placement(
        attention="native_math", channels_last=True, quantise="int8", offload="parts"
    )


def hooked(base: Base) -> set[str]:
    """Parts that visit the device only while they work."""
    names = (*base.text_encoders(), "unet", "vae")
    return {name for name in names if base.component(name)._forward_pre_hooks}


def test_parts_that_learn_stay_and_the_others_visit(tiny_folders: dict[str, Path]) -> None:
    base = load_base(tiny_folders["sdxl"], device="cpu", placement=Placement(offload="parts"))
    offload = offloaded(base)
    assert offload is not None and hooked(base) == {"text_encoder", "text_encoder_2", "vae"}
    pixels, before = torch.zeros(1, 3, 16, 16), base.condition(["a disc"]).hidden
    mean, _ = base.encode_images(pixels)
    with parked(base, trained=["text_encoder_2"]):
        assert hooked(base) == {"text_encoder", "vae"}
        assert offload.resident == 0
        learning = with_adapters(base)
        found, _ = gradients(base, learning)
        assert any("text_encoder_2" in name for name in found)
        assert torch.equal(base.encode_images(pixels)[0], mean)  # previews go on
    assert hooked(base) == {"text_encoder", "text_encoder_2", "vae"} and offload.resident == 0
    assert before.shape == base.condition(["a disc"]).hidden.shape


def test_nothing_is_parked_where_nothing_was_offloaded(tiny_base: Base) -> None:
    with parked(tiny_base, trained=["text_encoder"]):
        assert hooked(tiny_base) == set()


def test_the_peak_is_what_was_there_at_most() -> None:
    """In a process of its own: one that has freed much grows by nothing when it takes it again."""
    program = """
import torch
from trainers.memory import Peak
peak = Peak(torch.device("cpu"))
small = peak.bytes()
block = torch.ones(30_000_000)  # 120 MB
del block
grown, later = peak.bytes() - small, Peak(torch.device("cpu")).bytes()
assert 100e6 < grown < 300e6 and later < 60e6, (grown, later)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
     RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")],
)  # fmt: skip
def test_out_of_memory_says_what_to_lower(error: Exception, make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(batch_size=4, accumulate=2)
    with pytest.raises(StudioError) as said, explained(config):
        raise error
    text = str(said.value)
    assert "out of memory" in text and "\n" not in text
    assert "run.gradient_checkpointing to 'all'" in text
    assert "run.batch_size to 2 with run.accumulate 4" in text


@pytest.mark.parametrize(
    ("doing", "wanted"),
    [("load", "run.quantise"), ("encode", "data.resolution"), ("draw", "data.class_images"),
     ("save", "adapter.rank")],
)  # fmt: skip
def test_what_to_lower_is_what_was_large(
    doing: str, wanted: str, make_config: Callable[..., TrainConfig]
) -> None:
    with (
        pytest.raises(StudioError, match=rf"out of memory; .*{wanted}") as said,
        explained(make_config(), doing),
    ):
        raise MemoryError
    assert "gradient_checkpointing" not in str(said.value)


def test_a_failed_device_is_said(make_config: Callable[..., TrainConfig]) -> None:
    lost = torch.AcceleratorError("CUDA error: unspecified launch failure\nand more")
    said = r"device has failed \(CUDA error: unspecified launch failure\)"
    with pytest.raises(StudioError, match=said), explained(make_config()):
        raise lost


def test_other_errors_pass() -> None:
    assert not out_of_memory(RuntimeError("shapes don't match"))
    made: Any = None
    with pytest.raises(RuntimeError, match="shapes"), explained(made):
        raise RuntimeError("shapes don't match")


def test_advice_ends_where_there_is_nothing_left_to_set(make_config: Callable[..., TrainConfig]) -> None:
    said = []
    settings: dict[str, Any] = {"batch_size": 2}
    steps: list[dict[str, Any]] = [
        {"gradient_checkpointing": "none"}, {"gradient_checkpointing": "selective"},
        {"gradient_checkpointing": "all"},
        {"batch_size": 1, "accumulate": 2}, {"quantise": "int8"},
    ]  # fmt: skip
    for more in [{}, *steps]:
        settings |= more
        said.append(advice(make_config(**settings)))
    assert "'all'" in said[0] and "'selective'" in said[1] and "'all'" in said[2]
    assert "batch_size to 1" in said[3] and "int8" in said[4]
    assert said[5] == "lower data.resolution or adapter.rank"
