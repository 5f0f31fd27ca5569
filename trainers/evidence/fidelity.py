"""How alike drawn pictures are to those that were learned from, and how well they show what was asked.

All are of unit vectors, one per picture or prompt, as judges give them.
"""

from __future__ import annotations

import torch


def image_similarity(drawn: torch.Tensor, references: torch.Tensor) -> float:
    """Mean cosine over all pairs of a drawn (N, D) and a reference picture (M, D), −1 … 1: CLIP-I.

    Source: Ruiz et al. 2022, https://arxiv.org/abs/2208.12242, section 4.1.
    """
    return float((drawn @ references.T).mean())


def structure_similarity(drawn: torch.Tensor, references: torch.Tensor) -> float:
    """The same of a self-supervised model's vectors, which keep apart subjects of one class: DINO.

    drawn: (N, D). references: (M, D).
    Source: Ruiz et al. 2022, https://arxiv.org/abs/2208.12242, section 4.1.
    """
    return image_similarity(drawn, references)


def prompt_similarity(drawn: torch.Tensor, prompts: torch.Tensor) -> float:
    """Mean cosine of each picture with its own prompt, both (N, D), −1 … 1: CLIP-T.

    Source: Hessel et al. 2021, https://arxiv.org/abs/2104.08718, section 3, without its scaling by 2.5 and
    its floor at 0; Ruiz et al. 2022, https://arxiv.org/abs/2208.12242, section 4.1, who take the plain mean.
    """
    return float((drawn * prompts).sum(-1).mean())
