"""Grids and PSNR, messages and atomic files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.errors import AdapterError, Busy, PictureError, StudioError, nearest
from pipelines.files import file_sha256, write_atomic
from pipelines.grids import labelled_grid, psnr


def _colour(value: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, 128))


def test_a_grid_holds_every_picture_enlarged_by_a_whole_number() -> None:
    rows = [[_colour(10), _colour(60), _colour(110)], [_colour(160), _colour(210), _colour(250)]]
    grid = labelled_grid(
        rows, ["weight 0", "a rather long label that has to be wrapped"], ["a", "b", "c"], "Mix"
    )
    levels = np.asarray(grid).reshape(-1, 3)
    for row in rows:
        for picture in row:
            colour = picture.getpixel((0, 0))
            assert (levels == colour).all(axis=1).sum() == 128 * 128
    assert grid.width < 3 * 140 + 200


def test_labels_are_drawn() -> None:
    blank = labelled_grid([[_colour(10)]], [""], [""])
    marked = labelled_grid([[_colour(10)]], [""], ["x"])
    assert blank.size == marked.size
    assert blank.tobytes() != marked.tobytes()
    titled = labelled_grid([[_colour(10)]], [""], [""], "A title that is longer than the grid is wide")
    assert titled.height > blank.height and titled.width == blank.width


def test_large_pictures_keep_their_size() -> None:
    grid = labelled_grid([[_colour(10, (300, 200))]], ["r"], ["c"])
    assert (np.asarray(grid).reshape(-1, 3) == (10, 245, 128)).all(axis=1).sum() == 300 * 200


@pytest.mark.parametrize(
    ("rows", "row_labels", "column_labels", "says"),
    [
        ([], [], [], "at least one picture"),
        ([[]], ["a"], [], "at least one picture"),
        ([[_colour(1)]], ["a", "b"], ["c"], "2 row and 1 column"),
        ([[_colour(1)], [_colour(1), _colour(2)]], ["a", "b"], ["c"], "rows of equal length"),
        ([[_colour(1), _colour(1, (8, 8))]], ["a"], ["b", "c"], "2 sizes"),
    ],
)
def test_uneven_grids_are_refused(
    rows: list[list[Image.Image]], row_labels: list[str], column_labels: list[str], says: str
) -> None:
    with pytest.raises(PictureError, match=says):
        labelled_grid(rows, row_labels, column_labels)


def test_psnr_by_hand() -> None:
    black, one = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (1, 1, 1))
    assert psnr(black, one) == pytest.approx(20 * math.log10(255))
    assert psnr(black, black) == math.inf
    assert psnr(black, Image.new("RGB", (4, 4), (255, 255, 255))) == pytest.approx(0.0)
    zeros = torch.zeros(1, 3, 2, 2)
    assert psnr(zeros, zeros + 0.2) == pytest.approx(20.0)
    pairs: list[tuple[Any, Any]] = [(black, Image.new("RGB", (4, 5))), (zeros, zeros[:, :1]), (black, zeros)]
    for one, other in pairs:
        with pytest.raises(PictureError, match="can't be compared"):
            psnr(one, other)


def test_errors_are_one_tree_and_offer_near_names() -> None:
    assert issubclass(Busy, StudioError) and AdapterError("x").exit_code == 2
    assert nearest("koya", ["kohya", "diffusers"]) == "; did you mean 'kohya'?"
    assert nearest("zzz", ["b", "a"]) == "; choose one of a, b"
    assert nearest("zzz", [str(n) for n in range(100, 120)]).endswith("and 12 more")
    assert nearest("zzz", []) == "; there are none yet"


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    digest = write_atomic(path, [b"one", b"two"])
    assert (path.read_bytes(), digest) == (b"onetwo", file_sha256(path))

    def breaks() -> object:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, breaks())  # type: ignore[arg-type]
    assert path.read_bytes() == b"onetwo"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]
