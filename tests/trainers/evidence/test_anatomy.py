"""Anatomy as a record keeps it, and what rank is advised by it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipelines.adapter import Adapter, LowRank
from pipelines.anatomy import cut_errors
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError
from pipelines.methods import METHODS
from pipelines.tools import resize
from tests.pipelines.making import modules_for, random_adapter_of
from tests.tiny import random_adapter, target_modules
from trainers.evidence.anatomy import anatomy
from trainers.evidence.ranks import WORTH, rank_advice
from trainers.evidence.record import Anatomy


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, device="cpu")


def made_of(values: list[float], *, rank: int, module: str = "unet.mid_block.a.to_q") -> Adapter:
    """An adapter of one module with these singular values, kept in a higher rank."""
    left, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))
    up = torch.zeros(16, rank)
    up[:, : len(values)] = left[:, : len(values)] * torch.tensor(values)
    return Adapter(name="made", factors={module: LowRank(torch.eye(rank, 16), up, float(rank))})


def some(**given: object) -> Anatomy:
    values = {
        "blocks": (),
        "norm": 1.0,
        "text_share": 0.0,
        "rank": 16,
        "rank_95": 3,
        "rank_99": 5,
        "error_99": 0.09,
    }
    return Anatomy.model_validate(values | given)


def test_ranks_are_those_at_which_the_energy_stays() -> None:
    found = anatomy(made_of([3.0, 0.6, 0.2], rank=8))  # shares 0.957, 0.038, 0.004
    assert (found.rank, found.rank_95, found.rank_99) == (8, 1, 2)
    total = 9 + 0.36 + 0.04
    assert found.error_95 == pytest.approx(math.sqrt(0.40 / total), rel=1e-5)
    assert found.error_99 == pytest.approx(math.sqrt(0.04 / total), rel=1e-5)
    shares = torch.tensor([9.0, 0.36, 0.04]) / total
    assert found.effective_rank == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-5)


def test_the_error_is_that_of_the_resize(base: Base) -> None:
    source = random_adapter(base, target_modules(base, "all")[::5], rank=6)
    for factor in source.factors.values():
        factor.parts["up"].mul_(
            torch.tensor([1.0, 0.7, 0.2, 0.2, 0.1, 0.1]).view(1, 6, *factor.parts["up"].shape[2:])
        )
    found = anatomy(source, base)
    assert found.rank_95 is not None
    assert 2 <= found.rank_95 < 5
    _, report = resize(source, found.rank_95)
    assert found.error_95 == pytest.approx(report.error, rel=1e-4)
    assert report.error**2 <= 0.05
    _, lower = resize(source, found.rank_95 - 1)
    assert lower.error**2 > 0.05


def test_blocks_shares_and_dead_modules(base: Base) -> None:
    modules = target_modules(base, "all")[::7]
    source = random_adapter(base, modules, rank=2)
    factors = dict(source.factors)
    text = [module for module in modules if module.startswith("text_encoder")]
    for module in text:
        one = factors[module]
        assert isinstance(one, LowRank)
        factors[module] = LowRank(one.down, one.up * 0, 2.0)
    found = anatomy(Adapter(name="half", factors=factors), base)
    assert found.dead == tuple(text)
    assert found.text_share == 0
    assert found.blocks[-1].name == "text_encoder"
    assert (found.blocks[-1].rank, found.blocks[-1].dead) == (None, len(text))
    assert sum(block.share for block in found.blocks) == pytest.approx(1)
    assert all(block.relative is not None for block in found.blocks)
    whole = anatomy(source)
    assert 0 < whole.text_share < 1
    assert whole.blocks[0].relative is None


@pytest.mark.parametrize("method", METHODS)
def test_something_is_said_of_every_method(base: Base, method: str) -> None:
    source = random_adapter_of(base, method, modules_for(base, method)[::11])
    state = torch.get_rng_state()
    found = anatomy(source, base)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(block.modules for block in found.blocks) == len(source.factors)
    weighs = METHODS[method].delta is not None
    assert (found.norm > 0, found.rank_99 is not None, found.note == "") == (weighs,) * 3
    advice = rank_advice(found)
    assert (advice is not None) == (weighs and found.rank > 0)


def test_what_works_beside_the_weights_is_idle_where_a_part_is_zero(base: Base) -> None:
    source = random_adapter_of(base, "bitfit", modules_for(base, "bitfit")[::9])
    first = next(iter(source.factors))
    source.factors[first].parts["diff_b"].zero_()
    assert anatomy(source, base).dead == (first,)


def test_words_alone_and_nothing_learned() -> None:
    words = Adapter(name="words", tokens={"zib": {"text_encoder": torch.ones(1, 4)}})
    assert "zib" in anatomy(words).note
    fresh = anatomy(made_of([0.0], rank=4))
    assert (fresh.norm, fresh.rank_99, len(fresh.dead)) == (0, None, 1)
    assert rank_advice(fresh) is rank_advice(anatomy(words)) is None


def test_a_method_that_needs_the_base_says_so(base: Base) -> None:
    with pytest.raises(AdapterError, match="give a base"):
        anatomy(random_adapter_of(base, "dora", modules_for(base, "dora")[:1]))


def test_cut_errors_end_in_nothing() -> None:
    assert cut_errors([]) == cut_errors([torch.zeros(3)]) == (0.0,)
    spectra = [torch.tensor([2.0, 1.0]), torch.tensor([2.0])]
    assert cut_errors(spectra) == (1.0, pytest.approx(1 / 3), 0.0)


def test_a_resize_is_advised_where_it_saves_a_third() -> None:
    advice = rank_advice(some())
    assert advice is not None
    assert advice.worth
    assert advice.words == (
        "uses 5 of its 16 ranks for 99% of its change (3 for 95%): resize to 5, and its change is off by 9.0%"
    )
    edge = rank_advice(some(rank=6, rank_99=4))
    assert edge is not None
    assert edge.worth == (WORTH * 6 >= 4)
    near = rank_advice(some(rank=8, rank_95=6, rank_99=6))
    assert near is not None
    assert not near.worth
    assert near.words == "uses 6 of its 8 ranks for 99% of its change"
    spread = rank_advice(some(rank=4, rank_99=12))
    assert spread is not None
    assert "needs rank 12" in spread.words
    assert rank_advice(some(rank=0)) is None
