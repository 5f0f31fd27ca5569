"""Four noise levels with ratios that are easy by hand."""

from __future__ import annotations

import pytest
import torch

from trainers.objective import Levels

SIGNAL = (0.9, 0.5, 0.2, 0.1)
"""ᾱ; signal-to-noise ratios of 9, 1, 1/4 and 1/9."""


@pytest.fixture
def levels() -> Levels:
    """Levels of a base that predicts epsilon."""
    return Levels(torch.tensor(SIGNAL), "epsilon")
