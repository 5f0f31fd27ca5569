"""What jobs do: captions, class pictures, and where a training finds its folders; without processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from pipelines.errors import ConfigError, StudioError
from studio.datasets import Datasets
from studio.jobs import Jobs
from studio.runlog import RunLog
from studio.work import captions, class_pictures, training
from studio.work.job import Job
from studio.workspace import Workspace
from trainers.config import TrainConfig

STAY = threading.Event()


@pytest.fixture
def begun(workspace: Workspace) -> Callable[..., Job]:
    """A running job of that kind and config."""

    def begin(kind: str, config: dict[str, Any]) -> Job:
        jobs = Jobs(workspace)
        job = jobs.submit(kind, kind, config)
        jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
        return jobs.get(job.id)

    return begin


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """Every captioner is one that says the first pixel's colour; returns the pictures it has seen."""
    seen: list[Image.Image] = []

    def load(name: str) -> Callable[[Image.Image], str]:
        assert name == "org/model"

        def say(picture: Image.Image) -> str:
            seen.append(picture)
            return f"  a disc\non {picture.getpixel((0, 0))}" if len(seen) != 3 else " "

        return say

    monkeypatch.setattr(captions, "_captioner", load)
    return seen


def test_captions_are_written_where_there_are_none(
    workspace: Workspace, pictures: list[Path], begun: Callable[..., Job], seeing: list[Image.Image]
) -> None:
    datasets = Datasets(workspace)
    dataset = datasets.new()
    datasets.take(dataset.id, [(path, path.name) for path in pictures])
    first = datasets.get(dataset.id).items[0]
    datasets.caption(dataset.id, first.sha256, "written by hand")
    job = begun("captions", {"dataset": dataset.id, "captioner": "org/model", "trigger": "Zib"})
    state, result = captions.run(workspace, job, STAY)
    assert (state, result) == ("done", {"dataset": dataset.id, "captions": 3})
    said = [item.caption for item in datasets.get(dataset.id).items]
    assert said == [
        "written by hand", "Zib, a disc on (0, 128, 128)", "Zib, a disc on (255, 215, 0)", "",
        "Zib, a disc on (128, 128, 128)",
    ]  # fmt: skip
    log = RunLog(Jobs(workspace).folder(job) / "events.jsonl").refresh()
    assert (log.done, log.of, len(log.warnings)) == (4, 4, 1)
    told = Jobs(workspace).get(job.id)
    assert (told.step, told.total) == (4, 4)


def test_stopped_captions_go_on_and_none_is_written_twice(
    workspace: Workspace, pictures: list[Path], begun: Callable[..., Job], seeing: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    datasets, stop = Datasets(workspace), threading.Event()
    dataset = datasets.new()
    datasets.take(dataset.id, [(path, path.name) for path in pictures])
    for item in dataset.items:
        datasets.caption(dataset.id, item.sha256, "old")
    job = begun("captions", {"dataset": dataset.id, "captioner": "org/model", "replace": True})
    keep = Datasets.caption

    def caption(self: Datasets, dataset_id: str, sha256: str, text: str) -> None:
        keep(self, dataset_id, sha256, text)
        if len(seeing) == 2:
            stop.set()

    monkeypatch.setattr(Datasets, "caption", caption)
    assert captions.run(workspace, job, stop) == ("interrupted", {})
    assert len(seeing) == 2
    Jobs(workspace).pause(job.id)
    stop.clear()
    assert captions.run(workspace, job, STAY) == ("done", {"dataset": dataset.id, "captions": 4})
    assert len(seeing) == 5, "three of five were left"


def test_a_wish_for_captions_that_is_not_understood_is_one_line(
    workspace: Workspace, begun: Callable[..., Job]
) -> None:
    for config, words in (
        ({"dataset": "x"}, "captioner"),
        ({"dataset": "x", "captioner": "a", "more": 1}, "more"),
        ({"dataset": "x", "captioner": "a"}, "no set of pictures 'x'"),
    ):
        with pytest.raises(StudioError, match=words) as refused:
            captions.run(workspace, begun("captions", config), STAY)
        assert "\n" not in str(refused.value)


@pytest.fixture
def config(workspace: Workspace, tiny_folder: Path, pictures: list[Path]) -> dict[str, Any]:
    """A training of the tiny base with four class pictures of two things."""
    return {
        "data": {
            "instance_images": str(pictures[0].parent), "trigger": "zuv", "instance_prompt": "a zuv disc",
            "class_prompt": "a disc", "num_class_images": 9, "resolution": 16,
        },
        "run": {
            "output": str(workspace.folder("runs", "elsewhere")), "base": str(tiny_folder),
            "cache": str(workspace.folder("cache")), "device": "cpu",
        },
    }  # fmt: skip


def test_class_pictures_are_drawn_once(
    workspace: Workspace, config: dict[str, Any], begun: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.prior._SETTINGS", {"num_inference_steps": 1, "sampler": "ddim"})
    job, stop = begun("class_pictures", config), threading.Event()
    stop.set()
    assert class_pictures.run(workspace, job, stop) == ("interrupted", {})
    assert class_pictures.run(workspace, job, STAY) == ("done", {"pictures": 9, "new": 2})
    assert len(list(workspace.folder("cache").rglob("class_pictures/*/*.png"))) == 9
    told = Jobs(workspace).get(job.id)
    assert (told.step, told.total) == (9, 9)
    assert class_pictures.run(workspace, job, STAY) == ("done", {"pictures": 9, "new": 0})


def test_no_class_pictures_are_drawn_where_none_are_asked_for(
    workspace: Workspace, config: dict[str, Any], begun: Callable[..., Job]
) -> None:
    config["data"]["prior_weight"] = 0
    config["run"]["base"] = "/nowhere"  # it isn't even looked for
    assert class_pictures.run(workspace, begun("class_pictures", config), STAY)[0] == "done"


def test_a_training_finds_its_folders_where_the_workspace_is_now(
    workspace: Workspace, config: dict[str, Any], begun: Callable[..., Job], tmp_path: Path
) -> None:
    before = Path("/home/before/Pigment")
    workspace.folder("runs", "1", "pictures").mkdir(parents=True)
    config["data"]["instance_images"] = str(before / "runs" / "1" / "pictures")
    config["data"]["class_images"] = str(before / "runs" / "2" / "pictures")
    config["run"]["cache"] = str(before / "cache")
    job = begun("train", config)
    found = training.config_of(workspace, job)
    assert isinstance(found, TrainConfig)
    assert found.data.instance_images == workspace.folder("runs", "1", "pictures")
    assert found.data.class_images == before / "runs" / "2" / "pictures", "it isn't here"
    assert found.run.cache == workspace.folder("cache")
    assert found.run.output == Jobs(workspace).folder(job)
    config["data"]["instance_images"] = str(tmp_path / "dropped")
    same = training.config_of(workspace, replace(job, config=config))
    assert same.data.instance_images == tmp_path / "dropped", "what is there stays"
    with pytest.raises(ConfigError):
        training.config_of(workspace, replace(job, config={}))
