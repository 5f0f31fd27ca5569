"""The queue's pieces of HTML and actions, without a browser."""

from __future__ import annotations

import json
import os
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from pipelines.errors import WorkspaceError
from studio.context import Context
from studio.parts import part
from studio.tabs.jobs import ACTIONS
from studio.tabs.jobs_pieces import ACTS, HOMES
from studio.work import KINDS
from studio.work.job import ACTS as OF_JOBS
from tests.made_runs import made_run

HOSTILE = "<script>alert(1)</script> {{x}} ${y}"


def ask(context: Context, **key: Any) -> dict[str, str]:
    return part("jobs")(context, json.dumps(key))


def order(context: Context) -> dict[str, list[str]]:
    return {name: [job for job, _ in rows] for name, rows in json.loads(ask(context)["order"]).items()}


def start(context: Context, job_id: str) -> None:
    assert context.jobs.claim(job_id, os.getpid(), psutil.Process().create_time())


def test_jobs_stand_by_state_and_turn(context: Context) -> None:
    jobs = context.jobs
    train, other, drawing, ended = (
        jobs.submit(kind, title, {}).id
        for kind, title in (("train", "Zib"), ("train", "Tolu"), ("generate", "a fox"), ("export", "file"))
    )
    start(context, train)
    start(context, ended)
    jobs.finish(ended, "failed", error="the disk is full; make room")
    found = order(context)
    assert found == {"running": [train], "waiting": [drawing, other], "paused": [], "ended": [ended]}
    jobs.pause(other)
    assert order(context)["paused"] == [other]
    assert "the disk is full" in ask(context)[ended]


def test_waiting_jobs_say_what_for(context: Context) -> None:
    jobs = context.jobs
    first, second = jobs.submit("train", "Zib", {}), jobs.submit("train", "Tolu", {})
    aside = jobs.submit("export", "a file", {})
    assert "in a moment" in ask(context)[first.id] and "After “Zib”" in ask(context)[second.id]
    start(context, first.id)
    found = ask(context)
    assert "“Zib” is being taught" in found[second.id] and "in a moment" in found[aside.id]


def test_a_running_job_shows_progress_time_and_memory(context: Context) -> None:
    job = context.jobs.submit("train", "Zib", {})
    start(context, job.id)
    folder = context.jobs.folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    events = [
        {"kind": "preview", "step": 5, "total": 100, "time": 1, "data": {"files": ["previews/s-5.png"]}},
        *(
            {"kind": "step", "step": step, "total": 100, "time": 10 * step, "data": {"loss": 0.1}}
            for step in (10, 20)
        ),
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    context.jobs.beat(job.id, step=20, total=100, message="Learning", memory=1_500_000_000)
    shown = ask(context)[f"{job.id}/progress"]
    for word in (
        'aria-valuenow="20"',
        "20 of 100",
        "about 13 min left",
        "1.5 GB",
        f"files/preview/{job.id}/s-5.png",
    ):
        assert word in shown, word
    context.jobs.finish(job.id, "done", result={"adapter": "x"})
    found = ask(context)
    assert f"{job.id}/progress" not in found and 'data-act="mix"' in found[job.id]


def test_ended_jobs_come_in_pages(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.tabs.jobs_pieces.PAGE", 2)
    ids = [context.jobs.submit("generate", f"{number}", {}).id for number in range(3)]
    for one in ids:
        context.jobs.stop(one)
    assert order(context)["ended"] == ids[:0:-1]
    later = ask(context, page=1)
    assert [job for job, _ in json.loads(later["order"])["ended"]] == ids[:1] and "Page 2 of 2" in later[
        "pages"
    ]
    assert ask(context, page=99)["order"] == later["order"]


def test_hostile_texts_are_data(context: Context) -> None:
    job = context.jobs.submit("train", HOSTILE, {})
    start(context, job.id)
    context.jobs.beat(job.id, message=HOSTILE)
    context.jobs.folder(job).mkdir(parents=True, exist_ok=True)
    (context.jobs.folder(job) / "log.txt").write_text(HOSTILE)
    shown = [*ask(context).values(), *part("job-log")(context, job.id).values()]
    context.jobs.finish(job.id, "failed", error=HOSTILE)
    shown += ask(context).values()
    assert len([html for html in shown if "alert(1)" in html]) >= 4
    assert not [html for html in shown if "<script" in html or "{{" in html or "${" in html]


def test_only_jobs_with_a_process_have_a_log(context: Context) -> None:
    train, drawing = (context.jobs.submit(kind, "x", {}).id for kind in ("train", "generate"))
    for one in (train, drawing):
        start(context, one)
    assert dict(json.loads(ask(context)["order"])["running"]) == {train: True, drawing: False}
    assert part("job-log")(context, "../..")["log"] == part("job-log")(context, train)["log"]


def test_actions_do_what_buttons_say(context: Context) -> None:
    jobs = context.jobs
    first, second, third = (jobs.submit("train", name, {}).id for name in "abc")

    def act(name: str, job_id: str) -> dict[str, Any]:
        return ACTIONS[name](context, job_id)

    for verb, job, expected in (
        ("down", first, [second, first, third]), ("up", third, [second, third, first]),
        ("first", first, [first, second, third]), ("pause", second, [first, third]),
        ("resume", second, [first, third, second]), ("stop", third, [first, second]),
    ):  # fmt: skip
        act(verb, job)
        assert order(context)["waiting"] == expected, verb
    given = act("remove", third)["view"]
    assert given["undo"] == third and third not in order(context)["ended"]
    act("restore", given["undo"])
    assert order(context)["ended"] == [third]
    act("retry", third)
    assert third in order(context)["waiting"]
    with pytest.raises(WorkspaceError):
        act("remove", first)


def test_mix_takes_the_adapter_of_a_training(context: Context) -> None:
    context.library.add_examples()
    entry = context.library.entries()[-1]
    job = context.jobs.submit("train", "x", {})
    start(context, job.id)
    context.jobs.finish(job.id, "done", result={"adapter": entry.id})
    wish = ACTIONS["mix"](context, job.id)["wish"]
    assert wish["adapters"][0]["id"] == entry.id and wish["adapters"][0]["weight"] == 1


def test_every_verb_has_a_button_and_every_kind_a_home() -> None:
    verbs = {verb for row in OF_JOBS.values() for verb in row} - {"move"}
    assert verbs == set(ACTS) and verbs <= set(ACTIONS)
    assert set(HOMES) == set(KINDS)


def test_what_was_measured_can_be_read_and_compared(context: Context) -> None:
    job = context.jobs.submit("train", HOSTILE, {})
    assert "data-compare" not in ask(context)[job.id] and "files/report" not in ask(context)[job.id]
    made_run(context.jobs.folder(job))
    card = ask(context)[job.id]
    assert f'data-compare="{job.id}"' in card and f'href="files/report/{job.id}"' in card
    assert "<script>" not in card and "{{x}}" not in card
