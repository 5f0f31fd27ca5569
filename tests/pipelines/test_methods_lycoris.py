"""ΔW against LyCORIS 4.1.3, by numbers that its modules' forward gave once.

Weights, factors and probes are plain waves, so that the numbers below can be made again anywhere: a
module of LyCORIS' on a convolution (8 → 16, 3×3) was loaded with the same factors, and its forward run
on every unit input. (Its `get_merged_weight` wasn't used: LoHa's and LoKr's square the scale.)
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipelines.adapter import AnyFactors, Factors, LowRank
from pipelines.methods import method_of

SHAPE = (16, 8, 3, 3)

# Case → (alpha, shapes of the parts in the order of LyCORIS' keys, norm of ΔW and its two probes).
FORWARD: dict[str, tuple[float, dict[str, tuple[int, ...]], list[float]]] = {
    "lora": (3.0, {"down": (2, 8, 3, 3), "up": (16, 2, 1, 1)}, [8.5083, -0.79516, -0.04727]),
    "locon": (
        3.0,
        {"down": (2, 8, 1, 1), "mid": (2, 2, 3, 3), "up": (16, 2, 1, 1)},
        [3.44961, 1.70606, 0.13214],
    ),
    "dora": (
        3.0,
        {"magnitude": (16, 1, 1, 1), "down": (2, 8, 3, 3), "up": (16, 2, 1, 1)},
        [4.56946, 1.93758, -0.09652],
    ),
    "dora-input": (
        3.0,
        {"magnitude": (1, 8, 1, 1), "down": (2, 8, 3, 3), "up": (16, 2, 1, 1)},
        [4.19807, 0.10616, 0.02007],
    ),
    "locon_dora": (
        3.0,
        {"magnitude": (16, 1, 1, 1), "down": (2, 8, 1, 1), "mid": (2, 2, 3, 3), "up": (16, 2, 1, 1)},
        [3.1085, -0.37775, 1.97902],
    ),
    "loha": (
        3.0,
        {"hada_w1_a": (16, 2), "hada_w1_b": (2, 72), "hada_w2_a": (16, 2), "hada_w2_b": (2, 72)},
        [0.78104, -0.03443, -0.04751],
    ),
    "loha-tucker": (
        3.0,
        {
            "hada_t1": (2, 2, 3, 3),
            "hada_t2": (2, 2, 3, 3),
            "hada_w1_a": (2, 16),
            "hada_w1_b": (2, 8),
            "hada_w2_a": (2, 16),
            "hada_w2_b": (2, 8),
        },
        [0.32459, -0.54142, -0.0419],
    ),
    "loha_dora": (
        3.0,
        {
            "magnitude": (16, 1, 1, 1),
            "hada_w1_a": (16, 2),
            "hada_w1_b": (2, 72),
            "hada_w2_a": (16, 2),
            "hada_w2_b": (2, 72),
        },
        [1.6404, 0.04676, -0.02447],
    ),
    "lokr": (3.0, {"lokr_w1": (4, 2), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 36)}, [4.1837, 2.17184, 0.0641]),
    "lokr-tucker": (
        3.0,
        {
            "lokr_t2": (1, 1, 3, 3),
            "lokr_w1_a": (4, 1),
            "lokr_w1_b": (1, 2),
            "lokr_w2_a": (1, 4),
            "lokr_w2_b": (1, 4),
        },
        [0.30505, -0.64159, 0.00189],
    ),
    "lokr-full": (2.0, {"lokr_w1": (4, 2), "lokr_w2": (4, 4, 3, 3)}, [3.83051, -20.28985, -0.01772]),
    "lokr_dora": (
        3.0,
        {"magnitude": (1, 8, 1, 1), "lokr_w1": (4, 2), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 36)},
        [3.2604, -1.39179, -0.25347],
    ),
    "ia3": (1.0, {"ia3_w": (1, 16, 1, 1), "on_input": (0,)}, [1.65598, 0.07868, -0.13059]),
    "ia3-input": (1.0, {"ia3_w": (1, 8, 1, 1), "on_input": (1,)}, [1.53253, -0.02001, -0.02342]),
    "oft_output": (0.1, {"oft_blocks": (4, 4, 4), "rescale": (16, 1, 1, 1)}, [3.16993, 0.77215, 0.15594]),
    "oft_output-butterfly": (0.0, {"oft_blocks": (3, 4, 4, 4)}, [7.06646, -2.43089, -0.4324]),
}


def wave(shape: Sequence[int], step: float) -> Tensor:
    """sin(step · n) for the n-th number."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (numbers * step).sin().reshape(tuple(shape)).float()


def factors_of(case: str) -> AnyFactors:
    alpha, shapes, _ = FORWARD[case]
    parts = {}
    for index, (name, shape) in enumerate(shapes.items()):
        if name == "on_input":
            parts[name] = torch.tensor(float(shape[0]))  # here its value stands for a shape
            continue
        near_one = 1.0 if name in ("magnitude", "rescale") else 0.0
        parts[name] = wave(shape, 0.5 + 0.17 * index) * 0.5 + near_one
    row = method_of(parts)
    assert row is not None and row.id == case.split("-")[0]
    if row.id == "lora":
        return LowRank(down=parts["down"], up=parts["up"], alpha=alpha)
    return Factors(method=row.id, parts=parts, alpha=alpha)


@pytest.mark.parametrize("case", FORWARD)
def test_delta_is_what_lycoris_forward_applies(case: str) -> None:
    norm, *probes = FORWARD[case][2]
    change = factors_of(case).delta(wave(SHAPE, 0.3) * 0.2).double()
    assert change.shape == SHAPE
    assert float(change.norm()) == pytest.approx(norm, rel=2e-5)
    found = [float((change * wave(SHAPE, step).double()).sum()) for step in (0.7, 1.1)]
    # A probe may be small against ΔW: its rounding goes by the size of the whole.
    assert found == pytest.approx(probes, abs=2e-5 * max(norm, 1))
