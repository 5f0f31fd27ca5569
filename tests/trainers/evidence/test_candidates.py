"""What a run keeps to choose from: read again after a stop, thinned, and when it ends early."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from trainers.evidence.candidates import CURVE, Kept
from trainers.evidence.record import Loss, Measured, Seen
from trainers.settings import EvidenceConfig


def measured(step: int, loss: float) -> Measured:
    return Measured(step=step, losses={"held_out": Loss(mean=loss, bands=(loss,) * 4)})


def run(folder: Path, losses: list[float], **settings: int | bool) -> Kept:
    """A run measured at steps 0, 10, 20 … with a candidate each."""
    kept = Kept(folder, EvidenceConfig.model_validate(settings))
    for at, loss in enumerate(losses):
        for step in range(10 * at - 9 if at else 0, 10 * at + 1):
            kept.note(step, 1.0 / (1 + step), 0.5, 1e-3) if step else None
        if at:
            kept.candidate(10 * at).parent.mkdir(exist_ok=True)
            kept.candidate(10 * at).write_bytes(b"adapter")
        kept.add(10 * at, measured(10 * at, loss))
        kept.prune()
    return kept


def test_what_was_kept_is_read_again_and_what_came_later_is_forgotten(tmp_path: Path) -> None:
    whole = run(tmp_path, [0.9, 0.5, 0.4, 0.6])
    whole.add(20, preview=Seen(step=20, files=("previews/a.png",)))
    again = Kept(tmp_path, EvidenceConfig())
    again.read(20)
    assert again.record().measured == whole.record().measured[:3]
    assert again.record().previews == whole.record().previews
    assert again.curve == whole.curve[:20]
    assert list(again.files()) == [10, 20]
    (tmp_path / "evidence" / "step-000010.json").write_bytes(b'{"measured": {"st')
    torn = Kept(tmp_path, EvidenceConfig())
    torn.read(20)
    assert list(torn.steps) == [0, 20] and list(torn.files()) == [20]


def test_candidates_are_thinned_but_for_the_best_and_the_newest(tmp_path: Path) -> None:
    kept = run(tmp_path, [0.9, 0.8, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], candidates=4)
    steps = list(kept.files())
    assert len(steps) == 4 and {20, 80} <= set(steps)
    assert max(b - a for a, b in pairwise(steps)) <= 40


def test_a_run_ends_when_the_best_step_lies_back_as_far_as_its_patience(tmp_path: Path) -> None:
    losses = [0.9, 0.5, 0.6, 0.7]
    assert not run(tmp_path / "a", losses).ended()
    assert run(tmp_path / "b", losses, stop_early=True, patience=2).ended()
    assert not run(tmp_path / "c", losses, stop_early=True, patience=3).ended()
    assert not run(tmp_path / "d", [0.9, 0.5, 0.4, 0.3], stop_early=True, patience=1).ended()


def test_a_long_curve_is_thinned_to_its_ends_and_numbers_only(tmp_path: Path) -> None:
    kept = Kept(tmp_path, EvidenceConfig())
    for step in range(1, 5 * CURVE + 3):
        kept.note(step, float("nan") if step == 7 else 0.5, 1.0, 1e-3)
    curve = kept.record().curve
    assert len(curve) <= CURVE + 1 and curve[0][0] == 1 and curve[-1][0] == 5 * CURVE + 2
    assert all(row[0] != 7 for row in kept.curve)
