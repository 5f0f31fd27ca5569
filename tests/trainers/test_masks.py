"""Masks: where they come from, what is refused, and how much each latent counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import ConfigError, PictureError
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.masks import find_mask, weights

Make = Callable[..., TrainConfig]


def half(folder: Path, name: str, size: tuple[int, int] = (24, 24)) -> Path:
    """A mask whose left half is white."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    folder.mkdir(exist_ok=True)
    mask.save(folder / name)
    return folder / name


def test_masks_lie_beside_the_picture_or_in_their_folder(pictures: Path) -> None:
    picture = pictures / "00.png"
    assert find_mask(picture) is None
    inside = half(pictures / "masks", "00.webp")
    assert find_mask(picture) == inside
    beside = half(pictures, "00.mask.png")
    assert find_mask(picture) == beside
    assert find_mask(pictures / "01.png", "00.webp") == inside


@pytest.mark.parametrize(
    "named", ["../secret.png", "/etc/passwd", "none.png", "", ".", "..", "a\\b", "a\0b", "x" * 300]
)
def test_a_named_mask_never_leads_out_of_the_folder(pictures: Path, named: str) -> None:
    half(pictures.parent, "secret.png")
    with pytest.raises(PictureError, match=r"picture '00\.png': expected a file beside it"):
        find_mask(pictures / "00.png", named)


def test_files_mask_the_pictures_that_have_one(make_config: Make, pictures: Path) -> None:
    half(pictures, "00.mask.png")
    half(pictures / "masks", "01.png", (12, 12))
    data = load_dataset(make_config(masks="file", held_out=0).data)
    assert len(data.learn) == 5
    for item in data.learn[:2]:
        assert item.mask is not None and item.mask.size == (24, 24)
        assert item.mask.getpixel((3, 3)) == 255 and item.mask.getpixel((20, 20)) == 0
    assert data.learn[2].mask is None
    assert "no mask for 02.png, 03.png, 04.png: all of it counts" in data.notes


def test_a_table_names_masks(make_config: Make, pictures: Path) -> None:
    half(pictures / "masks", "left.png")
    (pictures / "metadata.jsonl").write_text('{"file": "00.png", "mask": "left.png"}')
    data = load_dataset(make_config(captions="table", masks="file").data)
    assert data.learn[0].mask is not None
    unused = load_dataset(make_config(captions="table").data)
    assert any("its masks aren't used" in note for note in unused.notes)


def test_opacity_is_a_mask(make_config: Make, pictures: Path) -> None:
    picture = Image.open(pictures / "00.png").convert("RGBA")
    picture.paste((0, 0, 0, 0), (12, 0, 24, 24))
    picture.save(pictures / "00.png")
    first = load_dataset(make_config(masks="alpha").data).learn[0]
    assert first.mask is not None
    assert first.mask.getpixel((3, 3)) == 255 and first.mask.getpixel((20, 20)) == 0
    assert load_dataset(make_config().data).learn[0].mask is None


@pytest.mark.parametrize("masks", ["alpha", "file"])
def test_masks_that_nothing_has_are_refused(make_config: Make, masks: str) -> None:
    with pytest.raises(ConfigError, match=rf"data.masks: got '{masks}', but no picture has"):
        load_dataset(make_config(masks=masks).data)


def test_a_mask_of_another_shape_and_a_black_one_are_refused(make_config: Make, pictures: Path) -> None:
    half(pictures, "00.mask.png", (24, 20))
    with pytest.raises(PictureError, match=r"mask '00\.mask\.png' is 24×20.*'00\.png', 24×24"):
        load_dataset(make_config(masks="file").data)
    Image.new("L", (24, 24), 0).save(pictures / "00.mask.png")
    with pytest.raises(PictureError, match=r"'00\.png': its mask leaves nothing"):
        load_dataset(make_config(masks="file").data)


def test_the_datasets_hash_follows_the_masks(make_config: Make, pictures: Path) -> None:
    mask = half(pictures, "00.mask.png")
    config = make_config(masks="file").data
    first = load_dataset(config).sha256
    assert first != load_dataset(make_config().data).sha256
    Image.new("L", (24, 24), 255).save(mask)
    assert first != load_dataset(config).sha256


def test_weights_by_hand() -> None:
    values = np.array([[255, 255, 0, 0], [255, 0, 0, 0]], dtype=np.uint8)
    found = weights(Image.fromarray(values), (1, 2), 0.2)
    assert found.dtype == np.float32 and found.shape == (1, 2)
    np.testing.assert_allclose(found, [[0.2 + 0.8 * 0.75, 0.2]], rtol=1e-6)
    np.testing.assert_array_equal(weights(Image.fromarray(values), (2, 4), 0.0), values / 255)
    np.testing.assert_array_equal(weights(None, (2, 3), 0.2), np.ones((2, 3)))
    np.testing.assert_array_equal(weights(Image.fromarray(values), (1, 2), 1.0), [[1, 1]])


def test_what_is_transparent_in_a_mask_does_not_count(pictures: Path, make_config: Make) -> None:
    """White paint on a transparent layer, as painting programs write it."""
    mask = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 12, 24))
    mask.save(pictures / "00.mask.png")
    drawn = load_dataset(make_config(masks="file").data).learn[0].mask
    assert drawn is not None
    assert drawn.getpixel((2, 2)) == 255 and drawn.getpixel((20, 2)) == 0


def test_endings_of_masks_may_be_in_capitals(pictures: Path) -> None:
    beside = half(pictures, "00.mask.PNG")
    assert find_mask(pictures / "00.png") == beside
