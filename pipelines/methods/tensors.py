"""What the methods' closed forms share: parts as fp32, ΔW in the weight's shape, a trial of the shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pipelines.methods.method import AnyFactors, Shape


UNFIT = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, ArithmeticError)
"""What comes of arithmetic with tensors and options that don't belong together."""


def take(factors: AnyFactors, weight: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the parts in fp32, on the weight's device where there is one."""
    import torch

    device = None if weight is None else weight.device
    return {
        name: part.detach().to(device=device, dtype=torch.float32) for name, part in factors.parts.items()
    }


def base_weight(weight: torch.Tensor | None) -> torch.Tensor:
    """Return the base's weight in fp32; the caller's row needs it (`Method.needs_weight`)."""
    import torch

    assert weight is not None
    return weight.detach().to(torch.float32)


def shaped(change: torch.Tensor, weight: torch.Tensor | None, shape: Shape | None = None) -> torch.Tensor:
    """Return ΔW (out, ·) in the weight's shape; without a weight in `shape`, None: as it is.

    Raises: ValueError where it can't be that weight's, even if the count of numbers is the same.
    """
    if weight is None:
        return change if shape is None else change.reshape(shape)
    if change.shape[0] != weight.shape[0] or change.numel() != weight.numel():
        raise ValueError(f"it is {tuple(change.shape)} and the base has {tuple(weight.shape)}")
    return change.reshape(weight.shape)


def misfit(factors: AnyFactors, shape: Shape) -> str | None:
    """Say why factors can't belong to a weight of `shape`, or None: ΔW is tried on shapes alone."""
    import torch

    try:
        change = factors.delta(torch.empty(shape, device="meta"))
    except UNFIT as error:
        said = str(error).splitlines() if isinstance(error, ValueError) else []
        why = said[0] if said else "its factors don't fit"
        stated = ", ".join(f"{name} {tuple(part.shape)}" for name, part in factors.parts.items())
        return f"{why[:80]} ({stated[:100]}; the base has {shape})"
    found = tuple(change.shape)
    return None if found == shape else f"it is {found} and the base has {shape}"


def bias_misfit(factors: AnyFactors, shape: Shape) -> str | None:
    """Say why what factors add to a bias can't belong to a weight of `shape`, or None."""
    import torch

    try:
        change = factors.bias_delta(torch.empty(shape[0], device="meta"))
    except UNFIT as error:
        return f"its bias doesn't fit: {(str(error).splitlines() or ['other sides'])[0][:80]}"
    if change is None or tuple(change.shape) == shape[:1]:
        return None
    return f"its bias is {tuple(change.shape)} and the base has {shape[:1]}"


def tucker(core: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return a convolution's weight (out, in, kh, kw) of a core (i, j, kh, kw), (i, out) and (j, in)."""
    import torch

    return torch.einsum("ijkl,ip,jr->prkl", core, left, right)
