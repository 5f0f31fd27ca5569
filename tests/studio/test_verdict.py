"""The verdict over a run: what it recommends, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.context import Context
from studio.jobs import Job
from studio.runlog import RunLog
from studio.verdict import Verdict, kept_steps, verdict

Run = Callable[..., Verdict]


@pytest.fixture
def run(context: Context, tmp_path: Path) -> Run:
    """Judge a run with such a log and folder."""

    def judged(
        held_out: dict[int, float], kept: tuple[int, ...], *, total: int = 100, state: str = "done",
        previews: tuple[int, ...] = (),
    ) -> Verdict:  # fmt: skip
        folder = tmp_path / "run"
        for step in kept:
            (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
            (folder / "checkpoints" / f"step-{step:06d}" / "MANIFEST.json").touch()
        folder.mkdir(exist_ok=True)
        if state == "done":
            (folder / "adapter.safetensors").touch()
        events = [{"kind": "held_out", "step": s, "data": {"loss": loss}} for s, loss in held_out.items()]
        events += [
            {
                "kind": "preview",
                "step": s,
                "data": {"files": [f"previews/{s:06d}-00.png"], "prompts": ["a zib"]},
            }
            for s in previews
        ]
        events.append({"kind": "step", "step": total, "total": total, "data": {"loss": 0.1}})
        (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
        job = context.jobs.submit("train", "x", {})
        job = Job(**{**{name: getattr(job, name) for name in job.__dataclass_fields__}, "state": state})
        return verdict(RunLog(folder / "events.jsonl").refresh(), job)

    return judged


def test_a_loss_that_falls_to_the_end_recommends_the_end(run: Run) -> None:
    said = run({0: 0.5, 50: 0.4, 100: 0.3}, (50, 100))
    assert said.step == 100
    assert "fell from 0.5000 to 0.3000 at step 100" in said.words and "take it as it is" in said.words


def test_a_loss_that_rises_again_recommends_the_best_that_is_kept(run: Run) -> None:
    said = run({0: 0.5, 50: 0.3, 100: 0.4}, (50, 100))
    assert said.step == 50 and "rises after it: take step 50" in said.words


def test_what_is_no_longer_kept_is_said_and_not_recommended(run: Run) -> None:
    said = run({0: 0.5, 25: 0.3, 50: 0.38, 100: 0.4}, (50, 100))
    assert said.step == 50
    assert "0.3000, at step 25, of which nothing is kept" in said.words and "with 25 steps" in said.words


def test_losses_within_noise_recommend_the_later_step(run: Run) -> None:
    assert run({0: 0.5, 50: 0.3000, 100: 0.3010}, (50, 100)).step == 100


def test_a_run_that_learned_nothing_is_told_so(run: Run) -> None:
    said = run({0: 0.5, 50: 0.51, 100: 0.499}, (50, 100))
    assert said.step == 100 and "hasn't learned what they share" in said.words


def test_without_held_out_pictures_no_number_is_made_up(run: Run) -> None:
    said = run({}, (50, 100))
    assert said.step == 100 and "No picture was held out" in said.words


def test_a_run_that_ended_early_is_judged_by_its_checkpoints(run: Run) -> None:
    said = run({0: 0.5, 50: 0.3}, (50,), state="cancelled")
    assert said.step == 50 and said.words.startswith("It ended early, at step 100 of 100")
    assert "take step 50" in said.words


def test_nothing_kept_is_nothing_to_take(run: Run) -> None:
    assert run({0: 0.5}, (), state="failed") == Verdict(0, "Nothing has been kept of it yet.")


def test_the_pair_is_the_base_and_the_preview_next_to_the_step(run: Run) -> None:
    said = run({0: 0.5, 50: 0.3, 100: 0.4}, (50, 100), previews=(0, 40, 100))
    assert said.before.endswith("/000000-00.png") and said.after.endswith("/000040-00.png")
    assert said.before.startswith("files/preview/") and said.prompt == "a zib"
    assert run({}, (), total=100).before == ""


def test_half_written_checkpoints_count_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000010").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".writing-000020-1").mkdir()
    (tmp_path / "checkpoints" / ".writing-000020-1" / "MANIFEST.json").touch()
    assert kept_steps(tmp_path, 30) == []
