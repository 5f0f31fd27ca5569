"""What a training will see of each picture: the same as the training cuts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from studio.base_shapes import PUBLISHED, shape_of, sized
from studio.crops import crops
from studio.datasets import Dataset, Item
from studio.workspace import Workspace
from trainers.config import DataConfig

SIZES = ((128, 128), (300, 200), (200, 300), (640, 100), (63, 64))


@pytest.fixture
def dataset() -> Dataset:
    """A set of pictures of some sizes; their files don't matter."""
    items = [
        Item(
            position=n, sha256=f"{n:064d}", name=f"{n}.png", caption="", mask="", width=w, height=h, notes=()
        )
        for n, (w, h) in enumerate(SIZES)
    ]
    return Dataset(id="x", name="", settings={}, created=0, changed=0, items=tuple(items))


def data(**more: object) -> DataConfig:
    """A config of the pictures."""
    return DataConfig(instance_images=Path("."), trigger="x", instance_prompt="x", **more)  # type: ignore[arg-type]


def test_a_picture_of_a_shape_that_is_learned_is_seen_whole(dataset: Dataset) -> None:
    found = crops(dataset, data())
    assert [one.sha256 for one in found] == [item.sha256 for item in dataset.items]
    assert (found[0].width, found[0].height) == (64, 64) and found[0].box == (0.0, 0.0, 1.0, 1.0)
    assert found[1].width > found[1].height and found[2].width < found[2].height


@pytest.mark.parametrize("more", [{}, {"buckets": False}, {"center_crop": False}, {"resolution": 128}])
def test_boxes_have_the_shape_that_is_learned(dataset: Dataset, more: dict[str, object]) -> None:
    items = {item.sha256: item for item in dataset.items}
    for one in crops(dataset, data(**more)):
        left, top, right, bottom = one.box
        item = items[one.sha256]
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        assert left < 0.01 or top < 0.01 or right > 0.99 or bottom > 0.99 or more.get("center_crop", True)
        ratio = (right - left) * item.width / ((bottom - top) * item.height)
        assert ratio == pytest.approx(one.width / one.height, rel=0.05)


def test_crops_are_what_the_training_cuts(tmp_path: Path) -> None:
    """By the training's own words: what is read from files, with the embedded base's numbers."""
    from PIL import Image

    from trainers.dataset import frames, load_dataset

    Image.new("RGB", (90, 50)).save(tmp_path / "a.png")
    config = data(center_crop=False).model_copy(update={"instance_images": tmp_path})
    read = frames(load_dataset(config).learn, config, 64, 16)
    item = Item(position=0, sha256="0" * 64, name="a", caption="", mask="", width=90, height=50, notes=())
    one = Dataset(id="x", name="", settings={}, created=0, changed=0, items=(item,))
    seen = crops(one, config)
    assert [(crop.height, crop.width) for crop in seen] == [frame.size for frame in read]
    for crop, frame in zip(seen, read, strict=True):
        top, right, bottom, left = frame.cut_off
        assert crop.box == pytest.approx((left, top, 1 - right, 1 - bottom))


def test_off_center_gives_three_parts_of_what_is_cut(dataset: Dataset) -> None:
    found = crops(dataset, data(center_crop=False, buckets=False))
    assert [sum(one.sha256 == item.sha256 for one in found) for item in dataset.items] == [1, 3, 3, 3, 1]


def test_a_resolution_that_the_base_cant_have_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="expected a multiple of 16; use 64"):
        crops(dataset, data(resolution=70))


def test_a_strip_that_cant_be_learned_has_no_crop() -> None:
    item = Item(position=0, sha256="0" * 64, name="a", caption="", mask="", width=9, height=60000, notes=())
    one = Dataset(id="x", name="", settings={}, created=0, changed=0, items=(item,))
    assert crops(one, data(resolution=512)) == []


# ── Bases


def test_the_embedded_base_is_what_its_files_say(workspace: Workspace) -> None:
    from pipelines.bases.source import open_source

    source, shape = open_source("pocket"), shape_of(workspace, "pocket")
    unet, scale = source.configs["unet"], 2 ** (len(source.configs["vae"]["block_out_channels"]) - 1)
    assert shape.resolution == unet["sample_size"] * scale
    assert shape.multiple == scale * 2 ** (len(unet["block_out_channels"]) - 1)
    assert (shape.unet, shape.weights) == (source.parameters["unet"], sum(source.parameters.values()))


def test_a_folder_says_its_own_numbers(workspace: Workspace, tmp_path: Path) -> None:
    """A UNet of an eighth of the width, over a VAE that makes 4 pixels of a position."""
    unet = {"block_out_channels": [40, 80, 160], "sample_size": 16, "cross_attention_dim": 2048}
    for part, says in (("unet", unet), ("vae", {"block_out_channels": [4, 8, 8]})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(says))
    shape = shape_of(workspace, str(tmp_path))
    assert (shape.name, shape.resolution, shape.multiple) == ("sdxl", 64, 16)
    assert shape.step == pytest.approx(PUBLISHED["sdxl"].step / 64 * (16 / 128) ** 2)


def test_a_file_is_what_the_list_of_bases_says(workspace: Workspace) -> None:
    assert shape_of(workspace, "/nowhere/a.safetensors") == PUBLISHED["sd15"] == shape_of(None, "/b")
    with workspace.write() as db:
        info = json.dumps({"resolution": 512})
        db.execute("INSERT INTO bases VALUES ('x', '/x', 'sd2', '', 1, '', ?, 0)", (info,))
    assert shape_of(workspace, "/x") == sized(PUBLISHED["sd2"], 512)


def test_a_damaged_folder_is_taken_for_a_usual_one(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("[1]")
    assert shape_of(workspace, str(tmp_path)) == PUBLISHED["sd15"]
