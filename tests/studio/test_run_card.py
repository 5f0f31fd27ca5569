"""The card of a run: what it shows in each state, its end, its log, and the steps that can be taken."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError, WorkspaceError
from studio import taking, teaching
from studio.context import Context
from studio.jobs import Job
from studio.tabs import run_card, run_end, run_log
from studio.work import order
from studio.work.job import STATES
from trainers.config import validate
from trainers.run_folder import CHECKPOINTS, _check_same

HOSTILE = "<img src=x onerror=alert(1)>\"'{{constructor}}${alert(1)}`\\"


def event(kind: str, step: int, **data: Any) -> str:
    values = {
        "kind": kind,
        "step": step,
        "total": 10,
        "message": f"m{step}",
        "data": data,
        "time": time.time(),
    }
    return json.dumps(values) + "\n"


@pytest.fixture
def job(context: Context, filled: str) -> Job:
    """A run that has learned five steps, with a preview before and one after them."""
    asked = teaching.Lesson(dataset=filled, trigger="zuv", class_name="disc", advanced={"run.steps": 10})
    started = teaching.start(context, asked)
    folder = context.jobs.folder(started)
    folder.mkdir()
    lines = [event("preview", 0, files=["previews/a-00.png"], prompts=["a zuv"])]
    lines += [event("step", step, loss=1 / step, memory_bytes=700_000_000) for step in range(1, 6)]
    lines += [event("held_out", 0, loss=0.9), event("held_out", 5, loss=0.4)]
    lines += [event("preview", 5, files=["previews/b-00.png"], prompts=["a zuv"])]
    lines += [event("warning", 5).replace("m5", "picture '002.png' is small")]
    (folder / "events.jsonl").write_text("".join(lines))
    return started


def become(context: Context, job: Job, state: str, **columns: Any) -> Job:
    values = {"state": state, **columns}
    with context.workspace.write() as db:
        db.execute(
            f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?",
            (*values.values(), job.id),
        )
    return context.jobs.get(job.id)


def keep(context: Context, job: Job, *steps: int) -> None:
    """Put checkpoints into a run's folder, as far as these tests look."""
    for step in steps:
        folder = context.jobs.folder(job) / CHECKPOINTS / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text("{}")


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ("queued", ["pause", "stop"]),
        ("running", ["pause", "stop"]),
        ("paused", ["resume", "stop"]),
        ("failed", ["resume"]),
        ("cancelled", ["resume"]),
        ("interrupted", ["resume"]),
        ("done", []),
    ],
)
def test_each_state_has_its_buttons(context: Context, job: Job, state: str, buttons: list[str]) -> None:
    become(context, job, state, message="Learning")
    found = run_card.pieces(context, job.id)
    assert tuple(found) == run_card.PIECES
    assert f'data-state="{state}"' in found["status"]
    assert [act for act in run_card.ACTS if f'data-act="{act}"' in found["actions"]] == buttons
    assert set(run_card.STATE_WORDS) == set(STATES)


def test_a_running_one_says_how_far_it_is(context: Context, job: Job) -> None:
    become(context, job, "running", message="Learning", memory=900_000_000, heartbeat=time.time())
    found = run_card.pieces(context, "")  # an empty key is the newest
    assert "step 5 of 10" in found["status"]
    assert "900.0 MB of memory" in found["status"]
    assert "no sign of life" not in found["status"]
    assert "disc 2.png" in found["status"], "a picture is called what the person called it"
    assert found["strip"].count("<img") == 2
    assert "<circle" in found["chart"]
    assert found["end"] == ""
    become(context, job, "running", heartbeat=time.time() - 2 * run_card.SILENCE)
    assert "no sign of life" in run_card.pieces(context, job.id)["status"]


def test_a_waiting_one_says_how_many_go_before_it(context: Context, job: Job, filled: str) -> None:
    asked = teaching.Lesson(dataset=filled, trigger="zab", class_name="disc")
    second = teaching.start(context, asked)
    assert "1 before it" in run_card.pieces(context, second.id)["status"]
    assert "before it" not in run_card.pieces(context, job.id)["status"]
    assert "zuv · waiting" in run_card.pieces(context, second.id)["earlier"]


def test_an_ended_one_is_judged_and_its_steps_can_be_taken(context: Context, job: Job) -> None:
    keep(context, job, 3, 5)
    ended = become(context, job, "cancelled", error="stopped by you")
    found = run_end.end(context, ended, context.run_log(ended))
    assert found.step == 5
    assert "0.9000 to 0.4000" in found.html
    assert found.html.count("<pg-compare") == 1
    assert f'before="files/preview/{job.id}/a-00.png"' in found.html
    assert found.html.index('data-step="5"') < found.html.index('data-step="3"')
    assert ">Take step 5<" in found.html and "<h4>" not in found.html, "nothing was measured"
    assert '<figure class="chosen">' in run_card.pieces(context, job.id)["strip"]


def test_a_step_that_is_taken_goes_on_from_its_checkpoint(context: Context, job: Job) -> None:
    keep(context, job, 3, 5)
    taken = taking.take_step(context, job, 3).job
    assert taken is not None
    config = validate(taken.config)
    assert (config.run.steps, config.run.name) == (3, "zuv, step 3")
    assert config.data.instance_images == validate(job.config).data.instance_images
    there = [path.name for path in (context.jobs.folder(taken) / CHECKPOINTS).iterdir()]
    assert there == ["step-000003"]
    _check_same(config, context.jobs.folder(taken))  # the trainer takes it for its own run
    assert taken.details["taken_from"] == job.id
    with pytest.raises(ConfigError, match=r"step 4 .* there are: 3, 5"):
        taking.take_step(context, job, 4)
    assert len(context.jobs.find(kind="train")) == 2


def test_the_log_tells_what_happened_and_what_was_printed(context: Context, job: Job) -> None:
    (context.jobs.folder(job) / "log.txt").write_text(f"printed {HOSTILE}\n")
    [shown] = run_log.pieces(context, "").values()
    assert "      5  m5" in shown
    assert "printed" in shown and "<img" not in shown and "{{" not in shown
    assert run_log.happenings(Path("nowhere")) == []
    for _ in range(run_log.LINES):
        (context.jobs.folder(job) / "events.jsonl").open("a").write("torn\n" + event("stage", 7))
    assert len(run_log.happenings(context.jobs.folder(job) / "events.jsonl")) <= run_log.LINES


def test_the_card_shows_hostile_names_as_text(context: Context) -> None:
    told = {"trigger": HOSTILE, "prompt": HOSTILE, "kind": HOSTILE, "preset": HOSTILE, "pictures": HOSTILE}
    job = context.jobs.submit("train", HOSTILE, {}, details=told)
    folder = context.jobs.folder(job)
    folder.mkdir()
    keep(context, job, 3)
    (folder / "events.jsonl").write_text(
        event("preview", 0, files=[f"previews/{HOSTILE}.png"], prompts=[HOSTILE])
        + event("preview", 3, files=[f"previews/{HOSTILE}.png"], prompts=[HOSTILE])
        + json.dumps({"kind": "warning", "message": HOSTILE}) + "\n"
    )  # fmt: skip
    become(context, job, "failed", error=HOSTILE)
    found = run_card.pieces(context, job.id)
    other = run_card.pieces(context, context.jobs.submit("train", "other", {}).id)
    for piece in (*found.values(), other["earlier"]):
        assert "<img src=x" not in piece
        assert "{{" not in piece and "${" not in piece


def test_nothing_taught_yet(context: Context) -> None:
    found = run_card.pieces(context, "")
    assert "Nothing taught yet" in found["status"]
    assert not any(piece for name, piece in found.items() if name != "status")
    assert run_log.pieces(context, "") == {"log": ""}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("", "Starting"), ("Learning", "Learning"), ("a cat 1/2", "a cat 1/2"),
        ("class pictures 8/32", "Drawing class pictures, 8 of 32"), ("latents 5/5", "Getting ready"),
    ],
)  # fmt: skip
def test_a_stage_is_said_in_words(message: str, said: str) -> None:
    assert run_card.stage_words(message) == said


def test_a_full_queue_leaves_no_folder_behind(
    context: Context, job: Job, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = context.jobs.folder(job) / "checkpoints" / "step-000003"
    kept.mkdir(parents=True)
    (kept / "MANIFEST.json").write_text("{}")
    places = [context.workspace.folder(name) for name in ("pictures", "runs")]
    before = [sorted(place.iterdir()) for place in places]
    monkeypatch.setattr(order, "QUEUE_LIMIT", 0)
    with pytest.raises(WorkspaceError, match="jobs are waiting"):
        taking.take_step(context, job, 3)
    with pytest.raises(WorkspaceError, match="jobs are waiting"):
        teaching.start(context, teaching.Lesson(dataset=filled, trigger="zuv", class_name="disc"))
    assert [sorted(place.iterdir()) for place in places] == before


def test_what_one_thread_was_told_of_a_run_stays_while_another_reads_on(context: Context, job: Job) -> None:
    told = context.run_log(job)
    losses, rate = dict(told.losses), told.rate
    with (context.jobs.folder(job) / "events.jsonl").open("a") as log:
        log.write(event("step", 6, loss=0.1) + event("preview", 6, files=["previews/c-00.png"]))
    assert 6 in context.run_log(job).losses
    assert told.losses == losses and 6 not in told.previews and told.rate == rate


def test_the_time_that_a_run_took_leaves_its_pauses_out(context: Context) -> None:
    job = context.jobs.submit("train", "zib", {}, details={"worked": 120.0})
    with context.workspace.write() as db:
        db.execute("UPDATE jobs SET state = 'done', started = 1000, finished = 9000 WHERE id = ?", (job.id,))
    status = run_card.pieces(context, job.id)["status"]
    assert "2 min" in status and "2 h" not in status
