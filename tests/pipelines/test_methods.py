"""Every method's ΔW against PEFT's own, against its definition, and against wrong shapes."""

from __future__ import annotations

import copy
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from pipelines.adapter import Adapter, Factors
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats.peft import read_peft
from pipelines.methods import METHODS, method_of
from pipelines.methods.boft import butterfly
from pipelines.methods.lokr_peft import split
from pipelines.methods.more_of_peft import MORE
from tests.pipelines.making import ON_NORMS, modules_for, random_adapter_of, random_factors

LINEAR = ["to_q", "to_k", "to_out.0", "ff.net.2"]
ONE_BY_ONE = ["conv_shortcut", "proj_in"]
ALL = [*LINEAR, *ONE_BY_ONE, "conv1", "time_emb_proj"]
NORMS = ["norm1", "norm2", "norm3", "norm", "conv_norm_out"]
TEXT_NORMS = ["layer_norm1", "final_layer_norm"]
TEXT = ["q_proj", "out_proj", "fc1"]

SHAPES = {"linear": (24, 16), "convolution": (8, 16, 3, 3), "pointwise": (8, 16, 1, 1), "norm": (10,)}


def shapes_of(method: str) -> list[tuple[int, ...]]:
    """The shapes that a method can sit on."""
    if method in ON_NORMS:
        return [SHAPES["norm"]]
    if METHODS[method].linear_only:
        return [SHAPES["linear"]]
    both = [SHAPES["convolution"], SHAPES["pointwise"]]
    return both if method.startswith("locon") else [SHAPES["linear"], *both]


ON_SHAPES = [
    (method, shape, variant) for method in METHODS for shape in shapes_of(method) for variant in (0, 1)
]


def weight_like(shape: tuple[int, ...], seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def error(found: Tensor, expected: Tensor) -> float:
    """Relative Frobenius error."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


# ------------------------------------------------------------------ what PEFT computes


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


# ------------------------------------------------------------------ every row by itself


@pytest.mark.parametrize(("method", "shape", "variant"), ON_SHAPES)
def test_delta_has_the_weights_shape_and_is_moderate(
    method: str, shape: tuple[int, ...], variant: int
) -> None:
    weight = weight_like(shape)
    factors = random_factors(method, shape, variant=variant, weight=weight)
    assert factors.problem() is None
    assert factors.misfit(shape) is None
    assert factors.weight_shape in (shape, None)
    assert method_of(factors.parts) == METHODS[method]
    change = factors.delta(weight)
    assert change.shape == shape
    assert change.dtype == torch.float32
    assert 0.005 < float(change.square().mean().sqrt()) < 1
    if not METHODS[method].needs_weight and factors.weight_shape is not None:
        assert torch.equal(factors.delta(), change)


@pytest.mark.parametrize(("method", "shape", "variant"), ON_SHAPES)
def test_matrices_multiply_to_delta(method: str, shape: tuple[int, ...], variant: int) -> None:
    weight = weight_like(shape)
    factors = random_factors(method, shape, rank=2, variant=variant, weight=weight)
    matrices = factors.matrices()
    exact = {"lora", "locon", "adalora", "vera", "loha"}
    assert (matrices is not None) == (method in exact)
    if matrices is not None:
        up, down = matrices
        assert up.shape[1] == down.shape[0]
        assert error(up @ down, factors.delta(weight).flatten(1)) <= 1e-5


@pytest.mark.parametrize(("method", "shape", "variant"), ON_SHAPES)
def test_other_shapes_are_refused_in_words(method: str, shape: tuple[int, ...], variant: int) -> None:
    factors = random_factors(method, shape, variant=variant)
    others = [other for other in SHAPES.values() if len(other) > 1 and other[1:] != shape[1:]]
    others += (
        [(shape[0] + 1, shape[1] + 1, *shape[2:]), (shape[1], shape[0], *shape[2:])] if shape[1:] else []
    )
    others += [(shape[0] + 1,)]
    for other in others:
        per_output = method == "ia3" and variant and other[0] == shape[0]
        per_input = method == "ia3" and not variant and other[1:2] == shape[1:2]
        turned = method in ("oft", "hra") and prod(other[1:]) == prod(shape[1:])
        turned |= method in ("fourierft", "waveft") and len(other) == 2  # any that is large enough
        turned |= method == "oft_output" and other[0] == shape[0]
        if per_output or per_input or turned:
            continue  # numbers for one side fit any length of the other
        why = factors.misfit(other)
        assert why is not None, (method, other)
        assert len(why) < 250 and str(other[0]) in why


@pytest.mark.parametrize("method", [row.id for row in METHODS.values() if row.needs_weight])
def test_methods_that_need_the_base_say_so(method: str) -> None:
    factors = random_factors(method, shapes_of(method)[0])
    with pytest.raises(AdapterError, match="depends on the base's weights"):
        factors.delta()


@pytest.mark.parametrize("method", ["dora", "locon_dora", "loha_dora", "lokr_dora"])
@pytest.mark.parametrize("variant", [0, 1])
def test_magnitudes_are_the_new_norms(method: str, variant: int) -> None:
    shape = SHAPES["convolution"]
    weight = weight_like(shape)
    factors = random_factors(method, shape, variant=variant, weight=weight)
    total = weight + factors.delta(weight)
    norm = torch.linalg.vector_norm(total, dim=(1, 2, 3) if not variant else (0, 2, 3))
    assert torch.allclose(norm, factors.parts["magnitude"].flatten(), rtol=1e-5)
    # Without the option the axis shows in the magnitude's shape, as LyCORIS writes it.
    assert isinstance(factors, Factors)
    assert torch.equal(replace(factors, options={}).delta(weight), factors.delta(weight))


def test_lokr_scale_of_two_full_halves() -> None:
    factors = random_factors("lokr", (12, 12), rank=8)
    assert isinstance(factors, Factors) and "lokr_w2" in factors.parts
    by_hand = torch.kron(factors.parts["lokr_w1"], factors.parts["lokr_w2"])
    assert torch.equal(factors.delta(), by_hand), "LyCORIS ignores alpha here"
    stated = replace(factors, options={"rank": 4})
    assert torch.allclose(stated.delta(), by_hand * 1.5), "PEFT takes alpha / r"
    to_lycoris = METHODS["lokr"].for_lycoris
    assert to_lycoris is not None
    assert torch.allclose(replace(factors, parts=to_lycoris(stated)).delta(), stated.delta())


@pytest.mark.parametrize("size", [1, 7, 12, 36, 320, 1280])
@pytest.mark.parametrize("factor", [-1, 2, 4, 8, 16])
def test_lokr_splits_as_peft_does(size: int, factor: int) -> None:
    from peft.tuners.lokr.layer import factorization

    assert split(size, factor) == factorization(size, factor)


@pytest.mark.parametrize(("blocks", "index"), [(8, 0), (8, 1), (8, 2), (4, 1)])
def test_butterfly_orders_as_peft_does(blocks: int, index: int) -> None:
    from peft.tuners.boft.layer import BOFTLayer

    size, side = 32, 32 // blocks
    order: Any = BOFTLayer.block_butterfly_perm
    expected = order(None, size, blocks // 2**index, side // 2, 2)
    assert torch.equal(butterfly(size, blocks // 2**index, side // 2), expected)


def test_boft_of_several_factors_is_the_product_of_its_rotations() -> None:
    """Against PEFT's matrices written out: Rₙ⋯R₁, each P·B·Pᵀ."""
    from peft.tuners.boft.layer import BOFTLayer

    # Three factors: the third's order is the first that isn't its own inverse.
    weight = weight_like((6, 32))
    parts = {"boft_r": weight_like((3, 8, 4, 4), 1) * 3, "boft_s": 1 + weight_like((6, 1), 2)}
    layer: Any = BOFTLayer
    total = torch.eye(32)
    for index in range(3):
        rotation = torch.block_diag(*layer.cayley_batch(None, parts["boft_r"][index]))
        order = layer.block_butterfly_perm(None, 32, 8 // 2**index, 2, 1)
        moved = layer.perm2mat(None, order)
        total = moved @ rotation @ moved.T @ total
    expected = (total @ weight.T).T * parts["boft_s"]
    factors = Factors(method="boft", parts=parts)
    assert error(weight + factors.delta(weight), expected) <= 1e-5


def test_sizes_out_of_a_file_are_bounded_before_peft_allocates_them() -> None:
    factors = random_factors("miss", (24, 16))
    assert isinstance(factors, Factors)
    huge = replace(factors, options={"init_weights": "mini", "mini_r": 10**12})
    assert "mini_r" in str(huge.misfit((24, 16)))


@pytest.mark.parametrize("terms", [10**12, -1, None, "many", [5]])
def test_odd_options_out_of_a_file_are_refused(terms: Any) -> None:
    factors = random_factors("oft", (24, 16))
    assert isinstance(factors, Factors)
    assert replace(factors, options={"neumann_terms": terms}).misfit((24, 16)) is not None


def test_methods_through_peft_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    random_factors("gralora", (24, 16)).delta(weight_like((24, 16)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_lycoris_ia3_leaves_biases_alone() -> None:
    factors = random_factors("ia3", (6, 4), variant=1)
    assert isinstance(factors, Factors)
    bias = torch.ones(6)
    change = factors.bias_delta(bias)
    assert change is not None and torch.allclose(change, factors.parts["ia3_w"])
    assert replace(factors, options={}).bias_delta(bias) is None
    to_lycoris = METHODS["ia3"].for_lycoris
    assert to_lycoris is not None
    with pytest.raises(AdapterError, match="biases"):
        to_lycoris(factors)


@pytest.mark.parametrize("method", METHODS)
def test_random_adapter_fits_the_tiny_base(tiny_base: Base, method: str) -> None:
    adapter = random_adapter_of(tiny_base, method)
    assert set(adapter.factors) == set(modules_for(tiny_base, method)) and adapter.factors
    adapter.check(tiny_base)


@pytest.mark.parametrize("method", [row.id for row in METHODS.values() if row.peft_config])
def test_training_configurations_hold_what_they_are_given(method: str) -> None:
    made = config(method, 4, 6.0, ["to_q"], 0.0)
    row = METHODS[method]
    assert made.peft_type.value == row.peft_type
    assert set(made.target_modules) == {"to_q"}
    try:
        dropped = config(method, 4, 6.0, ["to_q"], 0.25)
    except AdapterError as refusal:
        assert "dropout" in str(refusal)
    else:
        assert 0.25 in [value for name, value in dropped.to_dict().items() if "dropout" in name]


def test_rows_are_told_apart_by_their_parts() -> None:
    for row in METHODS.values():
        assert row.required <= row.known
        for other in METHODS.values():
            assert other is row or not (row.required and row.required == other.required), (row.id, other.id)
    assert method_of(()) is None
    assert method_of({"down", "up", "alpha"}) == METHODS["lora"]
    assert method_of({"down", "hada_w1_a"}) is None
