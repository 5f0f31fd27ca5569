"""The queue with real child processes and a tiny base: done, killed, stopped, closed, resumed."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio import mixing, teaching
from studio.context import Context
from studio.jobs import Job
from studio.runner import Runner
from studio.workspace import Workspace
from tests.studio.test_teaching import advanced

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

WAIT = 120.0  # seconds; a child takes some five to load its libraries


def wait(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT:g} s for {what}"
        time.sleep(0.02)


@pytest.fixture
def studio(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Context]]:
    """Start the studio's queue on one workspace, as often as wanted: the earlier one is closed first."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # The base is loaded when it is asked for: warming it would only take time from the tests.
    monkeypatch.setattr(Runner, "_warm", lambda self: None)
    opened: list[Context] = []

    def close() -> None:
        while opened:
            context = opened.pop()
            context.runner.close()
            context.workspace.close()

    def start() -> Context:
        close()
        workspace = Workspace.open(tmp_path / "workspace")
        opened.append(Context(workspace, Runner(workspace, base=str(tiny_folder)), str(tiny_folder)))
        opened[-1].runner.start()
        return opened[-1]

    yield start
    close()


def lesson(pictures: list[Path], **changes: Any) -> teaching.Lesson:
    few: dict[str, Any] = {
        "run__steps": 6, "run__batch_size": 1, "run__checkpoint_every": 2, "run__preview_every": 6,
        "run__preview_prompts": "a zuv disc", "data__prior_weight": 0, "adapter__rank": 2,
        "run__threads": "1",
    }  # fmt: skip
    return teaching.Lesson(
        pictures=[(path, "") for path in pictures], kind="subject", trigger="zuv", class_name="disc",
        preset="sketch", name="", advanced=advanced(**{**few, **changes}),
    )  # fmt: skip


def state(context: Context, job: Job) -> str:
    return context.jobs.get(job.id).state


def trained_hash(context: Context, job: Job) -> str:
    found = context.jobs.get(job.id)
    assert found.state == "done", f"{found.state}: {found.error}"
    entry = context.library.get(found.result["adapter"])
    assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.sha256
    return entry.sha256


def running_at(context: Context, job: Job, step: int) -> Job:
    """The job once it has taken `step` steps; fails when it ended before."""
    wait(lambda: context.run_log(job).step >= step or not context.jobs.get(job.id).active, f"step {step}")
    found = context.jobs.get(job.id)
    assert found.state == "running", f"too late to disturb it: {found.state} {found.error}"
    return found


def test_a_killed_training_is_interrupted_resumed_and_ends_like_an_undisturbed_one(
    studio: Callable[[], Context], pictures: list[Path]
) -> None:
    context = studio()
    undisturbed = teaching.start(context, lesson(pictures))
    wait(lambda: state(context, undisturbed) not in ("queued", "running"), "the undisturbed run")
    expected = trained_hash(context, undisturbed)
    entry = context.library.get(context.jobs.get(undisturbed.id).result["adapter"])
    assert entry.cover == f"preview/{undisturbed.id}/step-000006-00.png"
    assert entry.triggers == ["zuv"]

    killed = teaching.start(context, lesson(pictures))
    found = running_at(context, killed, 1)
    assert found.pid is not None
    os.kill(found.pid, signal.SIGKILL)
    wait(lambda: state(context, killed) != "running", "the kill to be noticed")
    found = context.jobs.get(killed.id)
    assert found.state == "interrupted", found
    assert "signal 9" in found.error
    assert not (context.jobs.folder(killed) / "adapter.safetensors").exists(), (
        "killed too late to prove anything"
    )

    context = studio()  # and all that after a restart
    context.jobs.resume(killed.id)
    context.runner.wake()
    wait(lambda: state(context, killed) not in ("queued", "running"), "the resumed run")
    assert trained_hash(context, killed) == expected


def test_stop_cancels_and_closing_interrupts_both_with_a_checkpoint(
    studio: Callable[[], Context], pictures: list[Path]
) -> None:
    context = studio()
    long = lesson(pictures, run__steps=5000, run__checkpoint_every=5000, run__preview_every=0)
    job = teaching.start(context, long)
    running_at(context, job, 3)
    context.jobs.stop(job.id)
    wait(lambda: state(context, job) != "running", "the stop")
    assert state(context, job) == "cancelled"
    assert list((context.jobs.folder(job) / "checkpoints").iterdir()), "a stop keeps the last step"
    stopped_at = context.run_log(job).step

    context.jobs.resume(job.id)
    context.runner.wake()
    pid = running_at(context, job, stopped_at + 3).pid
    workspace = context.workspace
    context.runner.close()
    assert context.jobs.get(job.id).state == "interrupted"
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    workspace.close()


def test_a_training_that_outlived_its_server_is_taken_up_again(
    studio: Callable[[], Context], pictures: list[Path]
) -> None:
    context = studio()
    job = teaching.start(context, lesson(pictures, run__steps=60, run__preview_every=0))
    pid = running_at(context, job, 1).pid
    # What a killed server leaves: nobody watches, the lock is free.
    monitor = context.runner
    monitor._watch = lambda *_: None  # type: ignore[method-assign]
    context.workspace.close()
    workspace = Workspace.open(context.workspace.root)
    fresh = Context(workspace, Runner(workspace, base=context.base), context.base)
    fresh.runner.start()
    try:
        assert fresh.jobs.get(job.id).pid in (pid, None)
        wait(lambda: state(fresh, job) != "running", "the run to end by itself")
        assert trained_hash(fresh, job)
    finally:
        fresh.runner.close()
        workspace.close()


def test_a_failing_training_says_why_in_one_line(studio: Callable[[], Context], pictures: list[Path]) -> None:
    context = studio()
    job = teaching.start(context, lesson(pictures, data__resolution="17"))
    wait(lambda: state(context, job) not in ("queued", "running"), "the failure")
    found = context.jobs.get(job.id)
    assert found.state == "failed"
    assert "resolution" in found.error
    assert "\n" not in found.error


def test_pictures_are_drawn_with_and_without_adapters(
    studio: Callable[[], Context], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    from pipelines.generate import read_settings

    context = studio()
    entry, _ = context.library.add(make_adapter(tmp_path / "a.safetensors"), name="Disc")
    settings = mixing.generation_config(prompt="a zuv disc", seed=7, num_images=2, num_inference_steps=2)
    request = mixing.Request(
        generation=settings, mix=(mixing.MixPart(id=entry.id, weight=0.5),), compare=True
    )
    job = mixing.start(context, request)
    wait(lambda: state(context, job) not in ("queued", "running"), "the pictures")
    found = context.jobs.get(job.id)
    assert found.state == "done", found.error
    files = {
        name: [context.workspace.folder("images", f"{image}.png") for image in found.result[name]]
        for name in ("plain", "images")
    }
    assert [len(paths) for paths in files.values()] == [2, 2]
    written = read_settings(files["images"][1])["generation"]
    assert (written["seed"], written["prompt"]) == (8, "a zuv disc")
    [use] = written["adapters"]
    assert (use["name"], use["sha256"], use["weight"]) == ("Disc", entry.sha256, 0.5)
    assert read_settings(files["plain"][0])["generation"]["adapters"] == []
    assert files["plain"][0].read_bytes() != files["images"][0].read_bytes()

    single = settings.model_copy(update={"num_images": 1})
    nothing = (mixing.MixPart(id=entry.id, weight=0),)
    zero = mixing.start(context, mixing.Request(generation=single, mix=nothing))
    wait(lambda: state(context, zero) not in ("queued", "running"), "the base's picture")
    [image] = context.jobs.get(zero.id).result["images"]
    again = context.workspace.folder("images", f"{image}.png")
    assert again.read_bytes() == files["plain"][0].read_bytes(), "at zero the base is there again"

    target = tmp_path / "out.safetensors"
    answer = context.runner.maker.ask(
        "export", adapter=entry.id, format="diffusers", target=str(target), base=context.base
    )
    assert target.is_file()
    assert answer["report"]["keys_matched"] == answer["report"]["keys_expected"]
    assert answer["report"]["loaded_modules"] == answer["report"]["modules"]
