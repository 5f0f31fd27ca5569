"""What a PNG says beside its pixels is counted, and a picture that says too much isn't opened."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipelines.beside_pixels import bytes_beside_pixels
from pipelines.errors import PictureError
from pipelines.parameters import reading, restore
from tests.faults.pictures_made import HIGH, WIDE, art, chunk, png, rows, saved


def test_all_but_pixels_is_counted() -> None:
    content = png(
        (WIDE, HIGH), 8, 2, rows(art("a"), 8), chunk(b"eXIf", bytes(600)), late=chunk(b"tEXt", b"x" * 50)
    )
    assert bytes_beside_pixels(io.BytesIO(content)) == 13 + 600 + 50
    assert bytes_beside_pixels(io.BytesIO(content[:70])) >= 13, "a cut file is counted as far as it goes"
    assert (
        bytes_beside_pixels(io.BytesIO(saved(art("a"), "JPEG"))) == 0 == bytes_beside_pixels(io.BytesIO(b""))
    )


def test_settings_of_a_picture_that_says_too_much_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("was opened"))
    monkeypatch.setattr(reading, "MAX_BESIDE", 500)
    path = tmp_path / "a.png"
    path.write_bytes(png((WIDE, HIGH), 8, 2, rows(art("a"), 8), chunk(b"eXIf", bytes(600))))
    with pytest.raises(PictureError, match=r"'a\.png' has 613 bytes beside its pixels, expected at most 500"):
        restore(path)
    monkeypatch.setattr(reading, "MAX_PACKED", 100)
    path.write_bytes(saved(art("a"), "JPEG"))
    with pytest.raises(PictureError, match=r"'a\.png' has \d+ bytes, expected at most 100"):
        restore(path)
