"""Rounding to 8 bits and the product of rounded numbers, each as one kernel of Triton's.

In pieces of PyTorch's the rounding reads and writes 21 bytes a number and scaling the sums 14, which on small
cards takes as long as the product saves; here it is 5 and 2. PyTorch's builds for CUDA bring Triton on Linux;
without it these raise AttributeError. On a CPU they run in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

try:
    import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    triton = tl = None


def _compiled(kernel: Callable[..., None]) -> Any:
    """A kernel of Triton's; without Triton the function itself, which doesn't run."""
    return kernel if triton is None else triton.jit(kernel)


_WIDE = 1024
"""Numbers of a row that are rounded at once, at most."""


@_compiled
def _round_kernel(x, factors, numbers, scales, width, FACTORS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    x += row * width
    numbers += row * width
    largest = tl.zeros((BLOCK,), tl.float32)
    poison = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + at, mask=at < width, other=0.0).to(tl.float32)
        if FACTORS:
            value *= tl.load(factors + at, mask=at < width, other=0.0)
        largest = tl.maximum(largest, tl.abs(value))
        poison += value * 0.0  # not a number where one isn't finite, which a maximum would hide
    scale = tl.maximum(tl.max(largest, 0), 1e-30) / 127.0 + tl.sum(poison, 0)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + at, mask=at < width, other=0.0).to(tl.float32)
        if FACTORS:
            value *= tl.load(factors + at, mask=at < width, other=0.0)
        # Adding and taking away 1.5 · 2²³ rounds to the nearest whole number, halves to the even one.
        whole = (tl.div_rn(value, scale) + 12582912.0) - 12582912.0
        tl.store(numbers + at, whole.to(tl.int8), mask=at < width)
    tl.store(scales + row, scale)


@_compiled
def _product_kernel(  # type: ignore[no-untyped-def]
    a, b, steps, scales, bias, out, M, N, K,
    SCALES: tl.constexpr, BIAS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # Blocks in groups of GROUP rows, so that what they share is still in the cache.
    own = tl.program_id(0)
    rows, columns = tl.cdiv(M, BM), tl.cdiv(N, BN)
    first = own // (GROUP * columns) * GROUP
    height = tl.minimum(rows - first, GROUP)
    m = (first + own % (GROUP * columns) % height) * BM + tl.arange(0, BM)
    n = own % (GROUP * columns) // height * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    left = a + (m % M).to(tl.int64)[:, None] * K + k[None, :]  # (BM, BK)
    right = b + (n % N).to(tl.int64)[None, :] * K + k[:, None]  # (BK, BN)
    total = tl.zeros((BM, BN), tl.int32)
    for start in range(0, K, BK):
        inside = k < K - start
        p = tl.load(left, mask=inside[None, :], other=0)
        q = tl.load(right, mask=inside[:, None], other=0)
        total = tl.dot(p, q, total, out_dtype=tl.int32)
        left += BK
        right += BK
    value = total.to(tl.float32) * tl.load(steps + m, mask=m < M, other=0.0)[:, None]
    if SCALES:
        value *= tl.load(scales + n, mask=n < N, other=0.0)[None, :]
    if BIAS:
        value += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    where = out + m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(where, value.to(out.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


def round_rows(x: torch.Tensor, factors: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows (M, n), times factors (n,), as int8 and fp32 scales (M, 1).

    A row with a number that isn't finite has a scale that isn't one.
    """
    x = x.contiguous()
    rows, width = x.shape
    numbers = torch.empty_like(x, dtype=torch.int8)
    scales = x.new_empty((rows, 1), dtype=torch.float32)
    block = min(_WIDE, triton.next_power_of_2(width))
    if rows:
        with torch.cuda.device_of(x):
            _round_kernel[(rows,)](
                x, x if factors is None else factors, numbers, scales, width,
                FACTORS=factors is not None, BLOCK=block,
            )  # fmt: skip
    return numbers, scales


def scaled_product(
    a: torch.Tensor,
    b: torch.Tensor,
    steps: torch.Tensor,
    scales: torch.Tensor | None,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """a (M, K) · bᵀ of b (N, K), both int8, times steps (M, 1) and scales (N, 1), plus bias (N,): (M, N)."""
    (rows, inner), columns = a.shape, len(b)
    out = torch.empty((rows, columns), device=a.device, dtype=dtype)
    tall, wide = 128 if rows >= 1024 else 64, 128 if columns >= 1024 else 64
    if rows:
        grid = (triton.cdiv(rows, tall) * triton.cdiv(columns, wide),)
        with torch.cuda.device_of(a):
            _product_kernel[grid](
                a, b, steps, steps if scales is None else scales, steps if bias is None else bias, out,
                rows, columns, inner,
                SCALES=scales is not None, BIAS=bias is not None,
                BM=tall, BN=wide, BK=64, GROUP=8, num_warps=8 if tall == wide == 128 else 4, num_stages=3,
            )  # fmt: skip
    return out
