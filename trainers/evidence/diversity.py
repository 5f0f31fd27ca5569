"""How far pictures of one prompt are from each other, and how far pictures moved away from the base's."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def diversity(drawn: torch.Tensor, prompts: Sequence[str]) -> float | None:
    """Mean distance 1 − cosine over pairs of pictures of one prompt, then over prompts; 0 … 2.

    drawn: (N, D) unit vectors, one per prompt; None where no prompt has two pictures.
    Source: Ruiz et al. 2022, https://arxiv.org/abs/2208.12242, section 4.3, with cosines for LPIPS.
    """
    found = []
    for prompt in dict.fromkeys(prompts):
        rows = drawn[[index for index, one in enumerate(prompts) if one == prompt]]
        if (count := len(rows)) > 1:
            cosine = rows @ rows.T
            found.append(1 - float(cosine.sum() - cosine.diag().sum()) / (count * (count - 1)))
    return sum(found) / len(found) if found else None


def drift(taught: torch.Tensor, base: torch.Tensor) -> float:
    """Mean distance 1 − cosine of each picture from the base's of the same prompt and seed; 0: the same.

    taught, base: (N, D) unit vectors.
    """
    return 1 - float((taught * base).sum(-1).mean())
