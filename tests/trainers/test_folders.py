"""Folders whose names say how often their pictures come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.errors import ConfigError, PictureError
from trainers.config import TrainConfig
from trainers.dataset import load_dataset

Make = Callable[..., TrainConfig]


@pytest.fixture
def kohya(tmp_path: Path) -> Path:
    """A folder as kohya's scripts want it."""
    for folder, colour in (("10_zuv dog", "red"), ("2_a zuv cat", "blue"), ("notes", "gray")):
        (tmp_path / "kohya" / folder).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "kohya" / folder / "a.png")
    return tmp_path / "kohya"


def test_folders_give_repeats_and_prompts(make_config: Make, kohya: Path) -> None:
    (kohya / "2_a zuv cat" / "a.txt").write_text("zuv on blue")
    data = load_dataset(make_config(instance_images=kohya, subfolders=True, held_out=0).data)
    assert [(item.name, item.repeats, item.caption, item.own) for item in data.learn] == [
        ("10_zuv dog/a.png", 10, "zuv dog", False), ("2_a zuv cat/a.png", 2, "zuv on blue", True),
    ]  # fmt: skip


def test_pictures_beside_the_folders_are_read_first(make_config: Make, kohya: Path) -> None:
    Image.new("RGB", (16, 16)).save(kohya / "z.png")
    data = load_dataset(make_config(instance_images=kohya, subfolders=True, held_out=0, repeats=3).data)
    assert [(item.name, item.repeats) for item in data.learn] == [
        ("z.png", 3), ("10_zuv dog/a.png", 10), ("2_a zuv cat/a.png", 2),
    ]  # fmt: skip
    only = load_dataset(make_config(instance_images=kohya, held_out=0).data)
    assert [item.name for item in only.learn] == ["z.png"]


def test_a_table_names_pictures_by_their_folder(make_config: Make, kohya: Path) -> None:
    (kohya / "metadata.csv").write_text("file,caption,repeats\n2_a zuv cat/a.png,zuv here,7\n")
    config = make_config(instance_images=kohya, subfolders=True, captions="table", held_out=0)
    second = load_dataset(config.data).learn[1]
    assert (second.caption, second.repeats) == ("zuv here", 7)


@pytest.mark.parametrize(
    ("folder", "words"),
    [("0_zuv", "0 repeats, expected a number from 1 to 1000"), ("1001_zuv", "1001 repeats")],
)
def test_repeats_out_of_bounds_are_refused(make_config: Make, kohya: Path, folder: str, words: str) -> None:
    (kohya / "notes").rename(kohya / folder)
    with pytest.raises(ConfigError, match=rf"folder '{folder}': {words}"):
        load_dataset(make_config(instance_images=kohya, subfolders=True).data)


def test_folders_of_no_such_name_are_refused(make_config: Make, pictures: Path, kohya: Path) -> None:
    (pictures / "more").mkdir()
    with pytest.raises(ConfigError, match=r"data\.subfolders: no folder in"):
        load_dataset(make_config(subfolders=True).data)
    (kohya / "10_zuv dog" / "a.png").unlink()
    with pytest.raises(PictureError, match="has none"):
        load_dataset(make_config(instance_images=kohya, subfolders=True).data)
