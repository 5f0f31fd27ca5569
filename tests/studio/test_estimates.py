"""Estimates: what a training takes here, by FLOPs and by what earlier ones took."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studio import speeds
from studio.base_shapes import PUBLISHED
from studio.context import Context
from studio.estimates import estimate, expected, memory, samples
from studio.jobs import Jobs
from studio.speeds import Device, by_flops, device, measure_cpu, since, timeline
from studio.workspace import Workspace
from trainers.config import TrainConfig, preset_config

CPU = Device("cpu", "this CPU", 1.2e11, 6.2e10, 16 << 30)
CARD = Device("cuda", "A Card", 1e14, 1e14, 24 << 30)


def config(preset: str = "sketch", **more: Any) -> TrainConfig:
    """A subject's config."""
    said = {"trigger": "zib", "instance_prompt": "zib", "class_prompt": "a dog", **more}
    return preset_config(preset, "subject", instance_images=Path("."), output=Path("."), **said)


@pytest.fixture
def here(context: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A studio on a machine of known speed."""
    monkeypatch.setattr("studio.estimates.device", lambda workspace, asked: CPU)
    return context


def run_before(
    context: Context, said: TrainConfig, *, step: float, started: float = 1e6, memory: int = 700 << 20,
    resumed: bool = False,
) -> None:  # fmt: skip
    """A finished run of the workspace that took so long."""
    jobs, now = context.jobs, started + 10.0
    job = jobs.submit("train", "x", said.model_dump(mode="json"))
    events = [{"kind": "stage", "data": {"stage": "resume" if resumed else "prepare"}, "time": now}]
    for done in (8, 16, 24, 32):
        now += 4.0
        data = {"stage": "class_pictures", "done": done, "of": 32}
        events.append({"kind": "stage", "data": data, "time": now})
    for at in range(20):
        now += step
        told = {"loss": 0.1, "seconds": step, "memory_bytes": 1 << 20}
        events.append({"kind": "step", "step": at + 1, "data": told, "time": now})
    now += 3.0
    events.append({"kind": "preview", "step": 20, "data": {"files": ["a", "b", "c"]}, "time": now})
    jobs.folder(job).mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(one) + "\n" for one in events)
    (jobs.folder(job) / "events.jsonl").write_text(lines + '{"kin')
    with context.workspace.write() as db:
        db.execute(
            "UPDATE jobs SET state = 'done', started = ?, finished = ?, memory = ? WHERE id = ?",
            (started, now, memory, job.id),
        )


def test_without_a_run_it_is_rough_and_says_so(here: Context) -> None:
    found = estimate(here, config(), 5)
    assert "roughly, by the speed of this CPU" in found.basis
    assert found.seconds is not None and 20 < found.seconds < 400
    assert 0.4e9 < found.bytes < 1.5e9


def test_more_work_takes_longer(here: Context) -> None:
    def seconds(**more: Any) -> float:
        return estimate(here, config(**more), 5).seconds or 0.0

    usual = seconds()
    for more in (
        {"steps": 500}, {"batch_size": 8}, {"accumulate": 2}, {"resolution": 128}, {"num_class_images": 96},
        {"preview_every": 10}, {"preview_steps": 64}, {"gradient_checkpointing": "all"},
        {"class_samples": 32}, {"samples": 4},
        {"preview_width": 128, "preview_height": 128}, {"prior_batch_size": 6},
    ):  # fmt: skip
        assert seconds(**more) > usual, more
    assert seconds(prior_weight=0.0) < usual and seconds(preview_guidance=1.0) < usual
    longer = [estimate(here, config(one), 5).seconds or 0.0 for one in ("sketch", "standard", "thorough")]
    assert longer == sorted(longer)


def test_a_run_before_tells_the_seconds_of_a_step(here: Context) -> None:
    quiet: dict[str, Any] = {"samples": 0, "evaluate_every": 0}
    run_before(here, config(), step=2.0)
    found = estimate(here, config(**quiet), 5)
    assert found.basis == "by the last training with this base on this machine"
    # 10 s until the log begins, no class pictures again, 250 steps, three looks at two pictures of 1 s.
    assert found.seconds == pytest.approx(10 + 2 + 250 * 2.0 + 3 * 2 * 1.0, rel=0.03)
    twice = estimate(here, config(batch_size=8, prior_batch_size=4, **quiet), 5)
    assert twice.seconds is not None and 1.6 * 500 < twice.seconds < 2.1 * 500
    fresh = estimate(here, config(class_prompt="a cat", **quiet), 5)
    assert fresh.seconds is not None and found.seconds is not None
    assert fresh.seconds - found.seconds == pytest.approx(32 * 0.5, rel=0.02)


def test_memory_is_what_the_run_before_took(here: Context) -> None:
    run_before(here, config(), step=1.0, memory=900 << 20)
    assert estimate(here, config(), 5).bytes == pytest.approx(900 << 20, rel=0.01)
    more = estimate(here, config(batch_size=16), 5).bytes - (900 << 20)
    assert more == pytest.approx(12 * PUBLISHED["pocket"].kept, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "more"),
    [({"base": "/other"}, {}), ({"device": "cpu"}, {}), ({}, {"resumed": True}), ({}, {"started": -5.0})],
)
def test_runs_that_tell_nothing_are_left_out(
    here: Context, changes: dict[str, str], more: dict[str, Any]
) -> None:
    run_before(here, config(**changes), step=2.0, **more)
    assert "roughly" in estimate(here, config(), 5).basis


def test_runs_of_another_machine_are_left_out(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert since(here.workspace) == 0.0
    run_before(here, config(), step=2.0)
    monkeypatch.setattr(speeds.platform, "node", lambda: "another")
    assert since(here.workspace) == pytest.approx(time.time(), abs=5)
    assert "roughly" in estimate(here, config(), 5).basis


def test_a_card_that_is_measured_says_so(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.estimates.device", lambda workspace, asked: None)
    found = estimate(here, config(), 5)
    assert found.seconds is None and "being measured" in found.basis and found.bytes > 0
    run_before(here, config(), step=2.0)
    assert estimate(here, config(), 5).seconds is not None, "runs know it without"


def test_what_doesnt_fit_a_card_is_computed_twice() -> None:
    shape, asked = PUBLISHED["sdxl"], config(base="/x", batch_size=4, precision="bf16")
    assert samples(asked) == 6
    large, small = (replace(CARD, memory=size << 30) for size in (80, 12))
    assert expected(asked, shape, small).step > 1.3 * expected(asked, shape, large).step
    assert memory(asked, shape, small) < 12 << 30 < memory(asked, shape, large)


@pytest.mark.parametrize(("family", "size"), [("sd15", 12), ("sd2", 16), ("sdxl", 16)])
def test_memory_on_a_card_is_near_what_presets_count(family: str, size: int) -> None:
    from trainers.presets import Preset, preset_fields, training_bytes

    fields = preset_fields(Preset(memory=size, family=family), "subject")
    counted = training_bytes(family, {**fields, "gradient_checkpointing": "all"})
    own = memory(config(base="/x", **{**fields, "gradient_checkpointing": "all"}), PUBLISHED[family], CARD)
    assert own == pytest.approx(counted, rel=0.35)


# ── Machines


def test_a_cpu_is_measured_once_and_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "card_possible", lambda asked: False)
    first = device(workspace)
    assert first is not None and first.kind == "cpu" and 1e8 < first.one <= first.flops < 1e14
    monkeypatch.setattr(speeds, "measure_cpu", lambda: pytest.fail("measured twice"))
    assert device(workspace) == first
    kept = next(workspace.folder("cache").glob("speed-*.json"))
    kept.write_text("{")
    monkeypatch.setattr(speeds, "measure_cpu", measure_cpu)
    assert device(workspace) is not None, "a damaged note is measured anew"


def test_a_card_is_measured_apart_and_the_page_hears_of_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Done:
        returncode = 0
        stdout = b"noise\n" + json.dumps({**vars(CARD)}).encode() + b"\n"

    asked: list[list[str]] = []
    monkeypatch.setattr(speeds, "card_possible", lambda asked: True)

    def run(command: list[str], **_: object) -> type[Done]:
        asked.append(command)
        return Done

    monkeypatch.setattr(speeds.subprocess, "run", run)
    assert device(workspace) is None
    deadline = time.monotonic() + 5
    while (found := device(workspace)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == CARD and len(asked) == 1 and asked[0][-2:] == ["trainers.device_speed", ""]
    while not workspace.setting("speed_measured") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workspace.setting("speed_measured")
    assert by_flops(CARD)[0] < CARD.flops


def test_a_device_is_measured_by_its_own_process() -> None:
    from trainers.device_speed import measure

    found = Device(**measure("cpu"))
    assert found.kind == "cpu" and found.flops >= found.one > 1e8 and found.memory > 1 << 28


def test_a_log_that_isnt_there_says_nothing(tmp_path: Path, context: Context) -> None:
    assert timeline(tmp_path / "events.jsonl", None) is None
    (tmp_path / "events.jsonl").write_text('{"kind": "step"}\nnonsense\n[1]\n')
    found = timeline(tmp_path / "events.jsonl", None)
    assert found is not None and found.step is None and found.picture is None
    assert isinstance(context.jobs, Jobs)
