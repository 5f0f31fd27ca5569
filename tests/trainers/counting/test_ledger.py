"""The ledger: calls, FLOPs and living bytes by hand, with memory and without."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from trainers.counting.ledger import Ledger, Work


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_it_counts_calls_flops_and_bytes(device: str) -> None:
    ledger = Ledger()
    outside = torch.ones(10, 20, device=device)
    with ledger:
        left = torch.ones(6, 10, device=device)  # 240 bytes
        product = left @ outside  # 480 bytes
        shown = product.t()[2:4]  # views
        assert (ledger.live, ledger.work) == (240 + 480, Work(2, 2 * 6 * 10 * 20))
        del left
        assert ledger.live == 480
        total = (shown * 2).sum()
    assert ledger.peak == 240 + 480
    assert ledger.live == 480 + 4 and ledger.work.kernels == 4
    del product
    assert ledger.live == 480 + 4  # `shown` holds it
    del shown, total
    assert ledger.live == 0


def test_it_sees_what_a_backward_pass_holds_and_gives_back() -> None:
    weight = torch.ones(50, 50, requires_grad=True)
    with Ledger() as ledger:
        x = torch.ones(4, 50)  # 800 bytes, kept for the weight's gradient
        y = (x @ weight).exp()  # 800 twice: of these `exp` keeps its answer
        del x
        assert ledger.live == 1600 and ledger.peak == 2400
        loss = y.sum()
        del y
        ledger.forget_peak()
        loss.backward()
        assert ledger.live == 4 + weight.nbytes  # the loss, the gradient
        assert ledger.peak >= 4 + 2 * 800 + weight.nbytes


def test_attention_in_one_piece_costs_twice_as_much_backwards() -> None:
    """As many products as if nothing were computed a second time inside."""
    query = torch.empty(1, 2, 64, 16, device="meta", requires_grad=True)
    with Ledger() as ledger:
        out = torch.ops.aten._scaled_dot_product_flash_attention(query, query, query, 0.0, False, False)[0]
        forward = ledger.work.flops
        assert forward == 2 * 2 * 2 * 64 * 64 * 16
        out.backward(torch.empty_like(out))
    assert ledger.work.flops == 3 * forward


def test_a_convolution_counts_as_pytorch_says() -> None:
    x, weight = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(5, 3, 3, 3, device="meta")
    with Ledger() as ledger:
        functional.conv2d(x, weight, padding=1)
    assert ledger.work == Work(1, 2 * 2 * 5 * 8 * 8 * 3 * 9)
