"""Captions and the split: which picture is learned with which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.errors import ConfigError, PictureError
from trainers.config import TrainConfig
from trainers.dataset import load_dataset

Make = Callable[..., TrainConfig]


def test_one_prompt_for_all(make_config: Make, pictures: Path) -> None:
    (pictures / "00.txt").write_text("a red zuv")
    data = load_dataset(make_config(captions="prompt").data)
    assert {item.caption for item in (*data.learn, *data.held_out)} == {"a zuv disc"}
    assert data.notes == ()


def test_sidecar_captions_and_what_is_missing(make_config: Make, pictures: Path) -> None:
    (pictures / "00.txt").write_text("\ufeffa zuv disc\n on red ", encoding="utf-8")
    (pictures / "01.txt").write_text("a disc on teal")
    data = load_dataset(make_config(captions="sidecar", held_out=0).data)
    assert [item.caption for item in data.learn[:3]] == ["a zuv disc on red", "a disc on teal", "a zuv disc"]
    assert any("no 'zuv' in the caption of 01.png" in note for note in data.notes)
    assert any("02.png, 03.png, 04.png" in note for note in data.notes)


def test_no_sidecar_at_all_needs_no_note(make_config: Make) -> None:
    assert load_dataset(make_config(captions="sidecar").data).notes == ()


def test_unreadable_captions_are_refused_by_name(make_config: Make, pictures: Path) -> None:
    (pictures / "00.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PictureError, match=r"'00\.txt' isn't UTF-8"):
        load_dataset(make_config(captions="sidecar").data)
    (pictures / "00.txt").write_text("zuv " * 5000)
    with pytest.raises(PictureError, match=r"'00\.txt' is longer"):
        load_dataset(make_config(captions="sidecar").data)


def test_the_last_pictures_are_held_out(make_config: Make) -> None:
    data = load_dataset(make_config(held_out=2).data)
    assert [item.name for item in data.held_out] == ["03.png", "04.png"]
    assert [item.name for item in data.learn] == ["00.png", "01.png", "02.png"]


@pytest.mark.parametrize("held_out", [5, 6])
def test_something_is_left_to_learn_from(make_config: Make, held_out: int) -> None:
    with pytest.raises(ConfigError, match=rf"held_out: got {held_out} of 5 pictures"):
        load_dataset(make_config(held_out=held_out).data)


def test_the_hash_follows_contents_and_captions(make_config: Make, pictures: Path) -> None:
    config = make_config(captions="sidecar").data
    first = load_dataset(config).sha256
    assert load_dataset(config).sha256 == first
    (pictures / "00.txt").write_text("a zuv")
    second = load_dataset(config).sha256
    Image.new("RGB", (24, 24), "pink").save(pictures / "01.png")
    assert len({first, second, load_dataset(config).sha256}) == 3


def test_notes_name_the_picture(make_config: Make, pictures: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(pictures / "02.png")
    notes = load_dataset(make_config().data).notes
    assert notes == ("picture '02.png': transparent parts were made white",)
    for name in ("01", "03", "04"):
        Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(pictures / f"{name}.png")
    notes = load_dataset(make_config().data).notes
    assert notes == ("pictures 01.png, 02.png, 03.png and 1 more: transparent parts were made white",)


def test_a_share_is_held_out_by_seed_and_content(make_config: Make, pictures: Path) -> None:
    def held_out(seed: int = 0, share: float = 0.4) -> list[str]:
        data = load_dataset(make_config(held_out=0, held_out_share=share, split_seed=seed).data)
        names = [item.name for item in data.held_out]
        assert len(data.learn) + len(names) == 5 and names == sorted(names)
        assert not {item.name for item in data.learn} & set(names)
        return names

    assert len(held_out()) == 2 and len(held_out(share=0.01)) == 1
    assert held_out() == held_out()
    assert len({tuple(held_out(seed)) for seed in range(12)}) > 4


def test_a_share_of_one_picture_leaves_nothing(make_config: Make, pictures: Path) -> None:
    for name in ("01", "02", "03", "04"):
        (pictures / f"{name}.png").unlink()
    with pytest.raises(ConfigError, match=r"held_out_share: got 0\.5 of 1 pictures"):
        load_dataset(make_config(held_out=0, held_out_share=0.5).data)


def test_pictures_in_other_formats_are_noted(make_config: Make, pictures: Path) -> None:
    (pictures / "layers.psd").touch()
    notes = load_dataset(make_config().data).notes
    assert notes == ("not read, since of another format: layers.psd; save them as PNG or JPEG",)


def test_the_hash_follows_repeats_and_background(make_config: Make) -> None:
    hashes = {
        load_dataset(make_config(**options).data).sha256
        for options in ({}, {"repeats": 2}, {"background": "black"}, {"add_trigger": True})
    }
    assert len(hashes) == 3  # the trigger is in every caption already


def test_a_name_that_is_no_utf8_is_a_name(pictures: Path, make_config: Make) -> None:
    odd = pictures / "a\udcff.png"
    try:
        (pictures / "00.png").rename(odd)
    except OSError:
        pytest.skip("this disk takes names in UTF-8 only")
    config = make_config(held_out=0, held_out_share=0.2)
    found = load_dataset(config.data)
    assert len(found.sha256) == 64 and len(found.learn) + len(found.held_out) == 5
