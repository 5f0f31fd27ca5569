"""Every method's ΔW against PEFT's own: merged per module, and in the forward of whole models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.formats.peft import read_peft
from pipelines.methods import METHODS
from pipelines.methods.more_of_peft import MORE
from pipelines.uncompiled import peft_uncompiled

LINEAR = ["to_q", "to_k", "to_out.0", "ff.net.2"]
ONE_BY_ONE = ["conv_shortcut", "proj_in"]
ALL = [*LINEAR, *ONE_BY_ONE, "conv1", "time_emb_proj"]
NORMS = ["norm1", "norm2", "norm3", "norm", "conv_norm_out"]
TEXT_NORMS = ["layer_norm1", "final_layer_norm"]
TEXT = ["q_proj", "out_proj", "fc1"]


@pytest.fixture(autouse=True)
def uncompiled() -> None:
    peft_uncompiled()


def error(found: Tensor, expected: Tensor) -> float:
    """Relative Frobenius error."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def config(method: str, rank: int, alpha: float, targets: list[str], dropout: float) -> Any:
    """The row's own configuration for training."""
    make = METHODS[method].peft_config
    assert make is not None
    return make(rank, alpha, targets, dropout)


CASES: dict[str, tuple[list[str], Any]] = {
    "lora": (ALL, lambda t: config("lora", 4, 6.0, t, 0.0)),
    "lora-rs-patterns": (
        ALL,
        lambda t: peft.LoraConfig(
            r=4,
            lora_alpha=6.0,
            target_modules=t,
            use_rslora=True,
            rank_pattern={"to_q": 2, "^mid_block.resnets.0.conv1": 3},
            alpha_pattern={"attn2.to_k": 3.5},
        ),
    ),
    "dora": (ALL, lambda t: config("dora", 4, 6.0, t, 0.0)),
    "loha": (ALL, lambda t: config("loha", 4, 6.0, t, 0.0)),
    "loha-tucker": (
        ALL,
        lambda t: peft.LoHaConfig(
            r=2, alpha=3, target_modules=t, use_effective_conv2d=True, alpha_pattern={"to_q": 5}
        ),
    ),
    "lokr": (ALL, lambda t: config("lokr", 2, 6.0, t, 0.0)),
    "lokr-tucker-both": (
        ALL,
        lambda t: peft.LoKrConfig(
            r=1, alpha=3, target_modules=t, use_effective_conv2d=True, decompose_both=True, decompose_factor=2
        ),
    ),
    "lokr-full": (ALL, lambda t: peft.LoKrConfig(r=16, alpha=6, target_modules=t)),
    "ia3": (ALL, lambda t: config("ia3", 0, 1.0, t, 0.0)),
    "ia3-feedforward": (
        ALL,
        lambda t: peft.IA3Config(target_modules=t, feedforward_modules=["ff.net.2", "conv1", "to_q"]),
    ),
    "adalora": (ALL, lambda t: config("adalora", 4, 6.0, t, 0.0)),
    "vera": (LINEAR, lambda t: config("vera", 4, 1.0, t, 0.0)),
    "oft": ([*LINEAR, *ONE_BY_ONE], lambda t: config("oft", 4, 1.0, t, 0.0)),
    "oft-exact-shared": (
        [*LINEAR, *ONE_BY_ONE],
        lambda t: peft.OFTConfig(
            r=0, oft_block_size=8, target_modules=t, use_cayley_neumann=False, block_share=True
        ),
    ),
    "oft-constrained": (
        LINEAR,
        lambda t: peft.OFTConfig(
            r=2, oft_block_size=0, target_modules=t, coft=True, eps=0.05, num_cayley_neumann_terms=2
        ),
    ),
    "hra": (ALL, lambda t: config("hra", 4, 1.0, t, 0.0)),
    "hra-orthogonal": (ALL, lambda t: peft.HRAConfig(r=3, target_modules=t, apply_GS=True)),
    "hira": (ALL, lambda t: config("hira", 4, 1.0, t, 0.0)),
    "ln_tuning": (NORMS, lambda t: config("ln_tuning", 0, 1.0, t, 0.0)),
    "miss": (LINEAR, lambda t: config("miss", 4, 1.0, t, 0.0)),
    "miss-bat": (LINEAR, lambda t: peft.MissConfig(r=4, target_modules=t, init_weights="bat")),
    "miss-mini": (LINEAR, lambda t: peft.MissConfig(r=4, mini_r=8, target_modules=t, init_weights="mini")),
    "c3a": (LINEAR, lambda t: config("c3a", 8, 1.0, t, 0.0)),
    "c3a-pattern": (
        LINEAR,
        lambda t: peft.C3AConfig(
            block_size=4, target_modules=t, init_weights=True, block_size_pattern={"to_q": 8}
        ),
    ),
    "fourierft": (LINEAR, lambda t: config("fourierft", 40, 1.0, t, 0.0)),
    "fourierft-pattern": (
        LINEAR,
        lambda t: peft.FourierFTConfig(
            n_frequency=30,
            scaling=90.0,
            random_loc_seed=5,
            target_modules=t,
            n_frequency_pattern={"to_q": 50},
            init_weights=True,
        ),
    ),
    "waveft": (LINEAR, lambda t: config("waveft", 60, 1.0, t, 0.0)),
    "waveft-plain": (
        LINEAR,
        lambda t: peft.WaveFTConfig(
            n_frequency=60, target_modules=t, use_idwt=False, random_loc_seed=3, proportional_parameters=True
        ),
    ),
    "road": (LINEAR, lambda t: config("road", 8, 1.0, t, 0.0)),
    "road-four": (LINEAR, lambda t: peft.RoadConfig(variant="road_4", group_size=4, target_modules=t)),
    "delora": (LINEAR, lambda t: config("delora", 4, 1.0, t, 0.0)),
    "gralora": (LINEAR, lambda t: config("gralora", 4, 6.0, t, 0.0)),
    "gralora-hybrid": (
        LINEAR,
        lambda t: peft.GraloraConfig(r=4, hybrid_r=2, gralora_k=4, alpha=5, target_modules=t),
    ),
    "boft": ([*ALL], lambda t: config("boft", 4, 1.0, t, 0.0)),
}


# Their arithmetic is PEFT's own: one component is proof enough.
THROUGH_PEFT = [row.id for row in MORE]


def forward(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn((1, 4, 8, 8), generator=generator)
    text = torch.randn((1, 16, 32), generator=generator)
    with torch.no_grad():
        sample: Tensor = unet(latents, 500, encoder_hidden_states=text).sample
    return sample


def trained(model: nn.Module, config: Any, seed: int = 1, size: float = 0.2) -> Any:
    """A copy of a model with an adapter of PEFT's, whose trained numbers are moved at random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:
                parameter.data += size * torch.randn(parameter.shape)
    return wrapped


def apply(base: Base, adapter: Adapter, component: str) -> nn.Module:
    """A copy of a component with the adapter's ΔW added to weights and biases."""
    model = copy.deepcopy(base.component(component))
    for name, factor in adapter.factors.items():
        layer = model.get_submodule(name.removeprefix(f"{component}."))
        with torch.no_grad():
            weight: Any = layer.weight
            bias: Any = layer.bias
            if bias is not None and (change := factor.bias_delta(bias)) is not None:
                bias += change
            weight += factor.delta(weight)
    return model


@pytest.mark.parametrize("case", CASES)
def test_unet_matches_peft(tiny_base: Base, case: str, tmp_path: Path) -> None:
    targets, configure = CASES[case]
    # A spectrum's numbers count many times over in ΔW: moved as far, the UNet would amplify rounding.
    size = 0.01 if case.startswith(("fourierft", "waveft")) else 0.2
    wrapped = trained(tiny_base.unet, configure(targets), size=size)
    wrapped.save_pretrained(tmp_path / "unet")
    expected = forward(wrapped)
    adapter = read_peft(tmp_path, family="sd15")
    assert adapter.method == case.split("-")[0]
    assert len(adapter.factors) == sum(hasattr(m, "base_layer") for m in wrapped.modules())
    adapter.check(tiny_base)
    merged = dict(wrapped.merge_and_unload().named_modules())
    moved = 0
    module: Any
    for name, module in tiny_base.weighted().items():
        if name not in adapter.factors:
            continue
        other: Any = merged[name.removeprefix("unet.")]
        change = other.weight.detach() - module.weight
        moved += float(change.norm()) > 1e-3 * float(module.weight.norm())
        assert error(adapter.factors[name].delta(module.weight), change) <= 1e-5, name
        if module.bias is not None and (own := adapter.factors[name].bias_delta(module.bias)) is not None:
            assert torch.allclose(own, other.bias.detach() - module.bias, atol=1e-6), name
    assert moved == len(adapter.factors), "the test's adapter must change every module"
    found = forward(apply(tiny_base, adapter, "unet"))
    assert error(found, expected) <= 1e-5
    assert error(found, forward(tiny_base.unet)) > 1e-3


@pytest.mark.parametrize("case", [case for case in CASES if "-" not in case and case not in THROUGH_PEFT])
def test_text_encoder_matches_peft(tiny_base: Base, case: str, tmp_path: Path) -> None:
    targets = TEXT_NORMS if CASES[case][0] is NORMS else TEXT
    wrapped = trained(tiny_base.text_encoder, CASES[case][1](targets))
    wrapped.save_pretrained(tmp_path)
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        expected = wrapped(tokens)[0]
        adapter = read_peft(tmp_path / "adapter_model.safetensors", family="sd15")
        found = apply(tiny_base, adapter, "text_encoder")(tokens)[0]
    assert adapter.components == ("text_encoder",)
    assert error(found, expected) <= 1e-5


@pytest.mark.parametrize("case", [case for case in CASES if "-" not in case])
def test_fresh_adapter_is_identity(tiny_base: Base, case: str, tmp_path: Path) -> None:
    targets, configure = CASES[case]
    wrapped = trained(tiny_base.unet, configure(targets), size=0.0)
    wrapped.save_pretrained(tmp_path / "unet")
    adapter = read_peft(tmp_path, family="sd15")
    for name, factor in adapter.factors.items():
        weight: Any = tiny_base.weighted()[name].weight
        assert float(factor.delta(weight).abs().max()) <= 1e-6, name


def test_oft_on_wide_convolutions_is_what_peft_merges(tiny_base: Base, tmp_path: Path) -> None:
    # PEFT's forward of these is broken (it folds overlapping patches); its merge is the definition.
    config = peft.OFTConfig(r=0, oft_block_size=4, target_modules=["conv1"])
    wrapped = trained(tiny_base.unet, config)
    wrapped.save_pretrained(tmp_path / "unet")
    adapter = read_peft(tmp_path, family="sd15")
    merged = dict(wrapped.merge_and_unload().named_modules())
    for name, factor in adapter.factors.items():
        weight = tiny_base.modules()[name].weight
        other: Any = merged[name.removeprefix("unet.")]
        assert error(factor.delta(weight), other.weight.detach() - weight) <= 1e-5


def test_pruned_adalora_keeps_its_scale(tiny_base: Base, tmp_path: Path) -> None:
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=6, total_step=10, tinit=1, tfinal=1, target_modules=LINEAR
    )
    wrapped = trained(tiny_base.unet, config)
    for step in (5, 9, 10):
        for name, parameter in wrapped.named_parameters():
            parameter.grad = torch.ones_like(parameter) if "lora_" in name else None
        wrapped.base_model.update_and_allocate(step)
    wrapped.save_pretrained(tmp_path / "unet")
    adapter = read_peft(tmp_path, family="sd15")
    assert len({factor.rank for factor in adapter.factors.values()}) > 1, "nothing was pruned"
    again = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_base.unet), tmp_path / "unet").eval()
    assert error(forward(apply(tiny_base, adapter, "unet")), forward(again)) <= 1e-5
