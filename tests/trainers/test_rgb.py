"""Colours of odd pictures: what was drawn into a file is what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.faults.pictures_odd import odd
from trainers import rgb
from trainers.images import read_picture

CASES = {case.name: case for case in odd()}


@pytest.mark.parametrize(
    "name",
    [
        "a clear gray of 4 bits.png",
        "a clear gray of 16 bits.png",
        "a clear colour of 16 bits.png",
        "white is zero of 16 bits.tif",
        "12 bits.tif",
        "straight profile, P.png",
        "light with holes.tif",
    ],
)
def test_what_was_drawn_is_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a picture is converted in parts of one row each."""
    (tmp_path / name).write_bytes(CASES[name].make())
    for part in (rgb.PART, 1):
        monkeypatch.setattr("trainers.images.PART", part)
        source = read_picture(tmp_path / name)
        assert CASES[name].wrong_picture(np.asarray(source.image), source.notes) is None


def test_opacity_is_put_together_from_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "opacity of 8 bits, colour 6.png"
    (tmp_path / name).write_bytes(CASES[name].make())
    whole = [np.asarray(layer) for layer in read_picture(tmp_path / name).layers() if layer is not None]
    monkeypatch.setattr("trainers.images.PART", 1)
    parts = [np.asarray(layer) for layer in read_picture(tmp_path / name).layers() if layer is not None]
    assert len(whole) == len(parts) == 2
    assert all((one == other).all() for one, other in zip(whole, parts, strict=True))
