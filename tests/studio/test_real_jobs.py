"""Jobs with real child processes and a tiny base: taught, killed, resumed, moved away; a page that draws.

A process that loads torch costs some six seconds. So the suite lets one training be killed in a process of
its own, and does what comes before and after in this one; PIGMENT_LONG=1 takes a process for each.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from studio import mixing, worker
from studio.context import Context
from studio.jobs import Job
from studio.processes import ROOT
from studio.runner import Runner
from studio.workspace import Workspace, new_id
from tests.studio.test_runner import wait

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

LONG = bool(os.environ.get("PIGMENT_LONG"))
# Both signals go one way, on which only SIGTERM has to be brought.
SIGNALS = ["SIGTERM", "SIGINT"] if LONG else ["SIGTERM"]


@pytest.fixture
def studio(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Context]]:
    """Open the studio on one workspace, as often as wanted: the earlier one is closed first.

    Its queue is started only where every job has a process of its own.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # The base is loaded when it is asked for: warming it would only take time from the tests.
    monkeypatch.setattr(Runner, "_warm", lambda self: None)
    opened: list[Context] = []

    def close() -> None:
        while opened:
            context = opened.pop()
            context.runner.close()
            context.workspace.close()

    def start(root: Path = tmp_path / "workspace") -> Context:
        close()
        workspace = Workspace.open(root)
        opened.append(Context(workspace, Runner(workspace, base=str(tiny_folder)), str(tiny_folder)))
        if LONG:
            opened[-1].runner.start()
        return opened[-1]

    yield start
    close()


def teach(context: Context, pictures: list[Path], **run: Any) -> Job:
    """Queue a small training, its pictures in the workspace."""
    job_id = new_id()
    folder = context.workspace.folder("pictures", job_id)
    folder.mkdir()
    for path in pictures:
        shutil.copy(path, folder)
    config = {
        "data": {
            "instance_images": str(folder), "trigger": "zuv", "instance_prompt": "a photo of a zuv disc",
            "prior_weight": 0,
        },
        "adapter": {"rank": 2},
        "run": {
            "output": str(context.workspace.folder("runs", job_id)), "base": context.base,
            "cache": str(context.workspace.folder("cache")), "steps": 6, "batch_size": 1, "threads": 1,
            "checkpoint_every": 2, "preview_every": 6, "preview_prompts": ["a zuv disc"], **run,
        },
    }  # fmt: skip
    return context.jobs.submit("train", "zuv", config, id=job_id)


def do(context: Context, job: Job, stop: threading.Event | None = None) -> None:
    """Do a queued job to its end, as its own process would."""
    assert context.jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
    worker.run(context.workspace, job.id, stop or threading.Event())


def state(context: Context, job: Job) -> str:
    return context.jobs.get(job.id).state


def trained_hash(context: Context, job: Job) -> str:
    if LONG:
        context.runner.wake()
    else:
        do(context, job)
    wait(lambda: not context.jobs.get(job.id).active, "the end")
    found = context.jobs.get(job.id)
    assert found.state == "done", f"{found.state}: {found.error}"
    entry = context.library.get(found.result["adapter"])
    assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.sha256
    return str(entry.sha256)


def running_at(context: Context, job: Job, step: int) -> Job:
    """The job once it has taken `step` steps; fails when it ended before."""
    wait(lambda: context.run_log(job).step >= step or not context.jobs.get(job.id).active, f"step {step}")
    found = context.jobs.get(job.id)
    assert found.state == "running", f"too late to disturb it: {found.state} {found.error}"
    return found


@pytest.mark.skipif(not LONG, reason="takes half a minute; `make test-long` runs it")
def test_a_killed_training_ends_like_an_undisturbed_one_also_in_a_workspace_that_was_moved(
    studio: Callable[..., Context], pictures: list[Path], tmp_path: Path
) -> None:
    context = studio()
    undisturbed = teach(context, pictures)
    expected = trained_hash(context, undisturbed)
    entry = context.library.get(context.jobs.get(undisturbed.id).result["adapter"])
    assert entry.cover == f"preview/{undisturbed.id}/step-000006-00.png"
    assert entry.triggers == ["zuv"]

    killed = teach(context, pictures)
    context.runner.wake() if LONG else context.runner.start()
    found = running_at(context, killed, 1)
    assert found.pid is not None
    assert "lower data.resolution" in found.details["lower"]
    said = (context.jobs.folder(killed) / "events.jsonl").read_text().splitlines()
    assert "Loading the base" in said[0], "what an earlier process said last doesn't stand while it loads"
    os.kill(found.pid, signal.SIGKILL)
    wait(lambda: state(context, killed) != "running", "the kill to be noticed")
    found = context.jobs.get(killed.id)
    assert found.state == "interrupted", found
    assert "signal 9" in found.error
    assert not (context.jobs.folder(killed) / "adapter.safetensors").exists(), (
        "killed too late to prove anything"
    )

    context.runner.close()
    context.workspace.close()
    moved = (tmp_path / "workspace").rename(tmp_path / "elsewhere")
    context = studio(moved)
    context.jobs.resume(killed.id)
    assert trained_hash(context, killed) == expected
    assert not (tmp_path / "workspace").exists()


@pytest.mark.skipif(not LONG, reason="the next test does the same without processes")
def test_the_process_of_what_stops_early_ends(studio: Callable[..., Context], pictures: list[Path]) -> None:
    context = studio()
    job = teach(context, pictures, steps=5000, checkpoint_every=5000, preview_every=0)
    context.runner.wake()
    running_at(context, job, 3)
    context.jobs.pause(job.id)
    wait(lambda: state(context, job) != "running", "the pause")
    assert state(context, job) == "paused"
    assert list((context.jobs.folder(job) / "checkpoints").iterdir()), "a pause keeps the last step"
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


@pytest.mark.skipif(LONG, reason="the test before does the same with processes")
def test_what_stops_early_keeps_its_last_step(studio: Callable[..., Context], pictures: list[Path]) -> None:
    context = studio()
    job = teach(context, pictures, steps=5000, checkpoint_every=5000, preview_every=0)
    steps: list[int] = []
    for asked in ("paused", "interrupted"):
        stop = threading.Event()
        working = threading.Thread(target=do, args=(context, job, stop))
        working.start()
        running_at(context, job, steps[-1] + 3 if steps else 3)
        if asked == "paused":
            context.jobs.pause(job.id)
        else:
            stop.set()  # as its process does at SIGTERM
        working.join(60)
        assert (state(context, job), working.is_alive()) == (asked, False)
        steps.append(context.run_log(job).step)
        kept = sorted(path.name for path in (context.jobs.folder(job) / "checkpoints").iterdir())
        assert kept and kept[-1].endswith(f"{steps[-1]:06d}"), kept
        context.jobs.resume(job.id)


@pytest.mark.parametrize("name", SIGNALS)
def test_the_page_starts_answers_draws_and_ends_with_its_children(
    name: str, tmp_path: Path, tiny_folder: Path, make_adapter: Callable[..., Path]
) -> None:
    root = tmp_path / "workspace"
    command = [
        sys.executable, "app.py", "--port", "0", "--base", str(tiny_folder), "--workspace", str(root)
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("Pigment is at http://127.0.0.1:"), server.communicate(timeout=5)
        address = line.split()[3]
        answer = ask(address)
        assert "Pigment" in answer
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask(address, host="evil.example")
        workspace = Workspace.open(root, own=False)
        context = Context(workspace, Runner(workspace, base=str(tiny_folder)), str(tiny_folder))
        try:
            draws_with_and_without_adapters(context, make_adapter(tmp_path / "a.safetensors"))
        finally:
            workspace.close()
            children = psutil.Process(server.pid).children(recursive=True)
            server.send_signal(getattr(signal, name))
            _, errors = server.communicate(timeout=60)
        assert server.returncode == 0, errors
        assert "Traceback" not in errors
        assert children and not [child for child in children if child.is_running()]


def draws_with_and_without_adapters(context: Context, adapter: Path) -> None:
    """Queue pictures where a studio's queue does them."""
    from pipelines.generate import read_settings

    entry, _ = context.library.add(adapter, name="Disc")
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


def ask(address: str, host: str | None = None) -> str:
    """The page's HTML, once the server answers."""
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
