"""The true score of candidates, on the tiny pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.base import load_base
from pipelines.formats import read_adapter
from pipelines.mixer import Mixer
from tests.trainers.conftest import draw_pictures
from trainers.bench.evidence_truth import fix, read_truth, score
from trainers.conditions import PromptEncoder
from trainers.config import TrainConfig
from trainers.loop import train


def test_every_candidate_and_the_base_are_scored_on_unseen_pictures(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config(take="last", prior_weight=0, steps=2, evaluate_every=1, learning_rate=0.05)
    for _ in train(config):
        pass
    unseen = draw_pictures(tmp_path / "unseen", 3)
    for path in unseen.glob("*.png"):
        path.with_suffix(".txt").write_text(f"a zuv disc {path.stem}", encoding="utf-8")
    assert read_truth(config.run.output) is None
    scores = score(config, unseen)
    assert list(scores) == [0, 1, 2] and len(set(scores.values())) == 3
    assert read_truth(config.run.output) == scores

    base = load_base(config.run.base, device="cpu")
    fixed = fix(base, config, unseen)
    timesteps = torch.cat([batch.timesteps for batch in fixed.batches])
    assert len(timesteps) == 12 == len(set(timesteps.tolist()))  # 3 pictures, levels of their own
    assert fixed.captions == ("a zuv disc 00", "a zuv disc 01", "a zuv disc 02")
    assert fixed.loss(base, PromptEncoder(base, trained=False)) == pytest.approx(scores[0], rel=1e-6)
    with Mixer(base) as mixer:
        mixer.add("taught", read_adapter(config.run.output / "adapter.safetensors"))
        mixer.set({"taught": 1.0})
        last = fixed.loss(base, PromptEncoder(base, trained=False))
    assert last == pytest.approx(scores[2], rel=1e-6)
