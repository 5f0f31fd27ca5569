"""Drawing jobs: pictures with and without adapters, grids, over pictures; stopped ones keep what is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.generate import read_settings
from studio import mixing
from studio.bases import BaseOptions, Bases
from studio.context import Context
from studio.gallery import Gallery
from studio.jobs import Job
from studio.library import Entry
from studio.locks import FileLock
from studio.maker import Maker
from studio.making.held import Held
from studio.runner import Runner


@pytest.fixture
def context(workspace: Any, tiny_folder: Path) -> Context:
    """The studio on the tiny base; nothing runs in it."""
    return Context(workspace, Runner(workspace, base=str(tiny_folder)), str(tiny_folder))


@pytest.fixture
def entries(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> list[Entry]:
    """Two adapters in the library."""
    return [
        context.library.add(make_adapter(tmp_path / f"{name}.safetensors", seed=seed), name=name)[0]
        for seed, name in enumerate(("Zib", "Zob"))
    ]


def drawn(context: Context, maker: Maker | None = None, **fields: Any) -> Job:
    """The job of a request, after it was drawn in this process."""
    own = {name: fields.pop(name) for name in list(fields) if name in mixing.Request.model_fields}
    settings = {"prompt": "a fox", "seed": 3, "num_inference_steps": 2, **fields}
    job = mixing.start(context, mixing.read_request({"generation": settings, **own}))
    assert context.jobs.claim(job.id, 1, 0.0)
    (maker or Maker(context.workspace)).generate(job.id)
    return context.jobs.get(job.id)


def pixels(context: Context, image_id: str) -> Any:
    """A picture of the gallery."""
    from PIL import Image

    with Image.open(Gallery(context.workspace).get(image_id).path) as image:
        return np.asarray(image.convert("RGB"))


def settings(context: Context, image_id: str) -> dict[str, Any]:
    """What its file says."""
    return read_settings(Gallery(context.workspace).get(image_id).path)


def test_a_mix_is_recorded_whole(context: Context, entries: list[Entry]) -> None:
    part = {"weight": 0.5, "text": 0.25, "blocks": {"mid_block": 0.5}, "begin": 0.0, "end": 0.5}
    job = drawn(
        context, mix=[{"id": entries[0].id, **part}, {"id": entries[1].id, "on": False}], compare=True
    )
    assert job.state == "done", job.error
    [image], [plain] = job.result["images"], job.result["plain"]
    [use] = settings(context, image)["generation"]["adapters"]
    assert use == {
        "name": "Zib", "sha256": entries[0].sha256, "weight": 0.5, "text_weight": 0.25,
        "blocks": {"mid_block": 0.5}, "begin": 0.0, "end": 0.5,
    }  # fmt: skip
    assert settings(context, plain)["generation"]["adapters"] == []
    assert (pixels(context, image) != pixels(context, plain)).any()
    kept = Gallery(context.workspace).get(image)
    assert (kept.job, kept.kind, kept.width) == (job.id, "picture", 16)
    nothing = drawn(context, mix=[{"id": entries[0].id, "weight": 0}], compare=True)
    assert "plain" not in nothing.result, "without adapters both would be the same"
    assert (pixels(context, nothing.result["images"][0]) == pixels(context, plain)).all()


def test_a_grid_swaps_adapters_and_moves_weights(
    context: Context, entries: list[Entry], tiny_file: Path
) -> None:
    for name, ref in (("Other", str(tiny_file)), ("Own", context.base)):
        Bases(context.workspace).add(BaseOptions().open(ref), name=name)
    first, second = entries
    maker = Maker(context.workspace)
    axes = [f"adapter={first.id},{second.id}", f"weight:{first.id}=0,1"]
    alone = drawn(context, maker, mix=[{"id": second.id}])  # leaves a mix in the base that is held
    job = drawn(context, maker, mix=[{"id": first.id}], axes=axes, num_images=4)
    assert job.state == "done", job.error
    assert Gallery(context.workspace).get(job.result["grid"]).kind == "grid"
    grid = settings(context, job.result["grid"])["grid"]
    assert [axis["values"] for axis in grid] == [["Zib", "Zob"], [0, 1]]
    whole, cell = (pixels(context, one.result["images"][0]) for one in (job, alone))
    same = _last_cell(whole, 16) == cell
    assert same.all(), "the cell of the other adapter is its own picture at that weight"
    maker.held.load = lambda ref: loaded.append(ref) or Held.load(maker.held, ref)  # type: ignore
    loaded: list[str] = []
    bases = drawn(context, maker, axes=["base=Other,Own"], num_inference_steps=1)
    assert bases.state == "done", bases.error
    assert loaded == [str(tiny_file)], "the base that is held isn't loaded again"


def _last_cell(grid: Any, size: int) -> Any:
    """The picture at a grid's right and lower corner, at the size it was drawn."""
    side, gap = max(128, size), 6
    shown = grid[-side - gap : -gap, -side - gap : -gap]
    return shown[:: side // size, :: side // size]


def test_it_draws_over_what_was_drawn(context: Context) -> None:
    [first] = drawn(context).result["images"]
    job = drawn(context, image=f"image/{first}", strength=0.5, hires_scale=2.0)
    assert job.state == "done", job.error
    [over] = job.result["images"]
    assert (
        settings(context, over)["generation"]["image"]["name"]
        == Gallery(context.workspace).get(first).file_name
    )
    assert pixels(context, over).shape == (32, 32, 3)


def test_a_failure_is_one_line_and_the_next_is_drawn(context: Context, entries: list[Entry]) -> None:
    maker = Maker(context.workspace)
    job = drawn(context, maker, mix=[{"id": entries[0].id, "blocks": {"middle": 0.5}}])
    assert (job.state, job.error.partition(";")[0]) == ("failed", "weights of 'Zib' name block 'middle'")
    assert drawn(context, maker).state == "done"


def test_what_is_finished_when_somebody_stops_it_is_kept(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, looks = Maker(context.workspace), []
    monkeypatch.setattr("studio.making.drawing.POLL", -1.0)

    def beat(job_id: str, **progress: Any) -> bool:
        looks.append(progress)
        return progress.get("step", 0) >= 5

    monkeypatch.setattr(type(maker.jobs), "beat", lambda self, *args, **progress: beat(*args, **progress))
    job = drawn(context, maker, num_images=4)
    assert (job.state, job.error) == ("cancelled", "stopped by you")
    assert len(job.result["images"]) == 2
    assert looks[-1]["total"] == 8
    lock = FileLock(context.workspace.device_lock)
    assert lock.acquire(), "the device is given back"
    lock.release()


def test_it_waits_for_the_device(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FileLock(context.workspace.device_lock)
    assert lock.acquire(note="job 7")
    monkeypatch.setattr("studio.making.drawing.POLL", 0.0)
    said = []

    def beat(self: Any, job_id: str, **progress: Any) -> bool:
        said.append(progress.get("message"))
        if len(said) == 3:
            lock.release()
        return False

    monkeypatch.setattr("studio.jobs.Jobs.beat", beat)
    assert drawn(context).state == "done"
    assert said[:3] == ["Waiting for the device"] * 3
