"""Every method's ΔW by itself: shapes, exactness, its definition, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.adapter import Factors
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.methods import METHODS, method_of
from pipelines.methods.boft import butterfly
from pipelines.methods.lokr_peft import split
from tests.pipelines.making import ON_NORMS, WITH_DELTA, modules_for, random_adapter_of, random_factors

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
    (method, shape, variant) for method in WITH_DELTA for shape in shapes_of(method) for variant in (0, 1)
]


def weight_like(shape: tuple[int, ...], seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def error(found: Tensor, expected: Tensor) -> float:
    """Relative Frobenius error."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def config(method: str, rank: int, alpha: float, targets: list[str], dropout: float) -> Any:
    """The row's own configuration for training."""
    make = METHODS[method].peft_config
    assert make is not None
    return make(rank, alpha, targets, dropout)


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
