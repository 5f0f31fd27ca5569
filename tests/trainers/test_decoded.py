"""Decoding: what a header says is held against limits and against what follows it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import PictureError
from tests.faults.pictures_made import HIGH, WIDE, art, chunk, flat_png, jpeg_says, png, rows, saved, woven
from trainers import decoded
from trainers.images import look_at, read_picture


def refusal(path: Path, content: bytes) -> str:
    """Why a file is refused."""
    path.write_bytes(content)
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    return str(caught.value)


def test_rows_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    data, path = rows(art("a"), 8), tmp_path / "a.png"
    assert "'a.png' is damaged (rows are missing)" in refusal(path, png((WIDE, 900), 8, 2, data))
    data = woven(art("a"), 8)
    assert "'a.png' is damaged" in refusal(path, png((WIDE, HIGH), 8, 2, data[:-73], woven=1))
    plain = saved(art("a"), "JPEG")
    assert "rows are missing" in refusal(tmp_path / "a.jpg", jpeg_says(plain, 8000, 8000))


def test_a_black_last_row_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(flat_png(70, 50))
    (tmp_path / "b.png").write_bytes(flat_png(70, 50, 1, 0))
    assert read_picture(tmp_path / "a.png").size == read_picture(tmp_path / "b.png").size == (70, 50)


@pytest.mark.parametrize("format", ["WEBP", "AVIF", "JPEG", "TIFF"])
def test_what_takes_much_memory_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    options: dict[str, Any] = {"JPEG": {"progressive": True}, "TIFF": {"compression": "tiff_lzw"}}
    (tmp_path / "a").write_bytes(saved(art("a"), format, **options.get(format, {})))
    source = read_picture(tmp_path / "a")
    # More than the pixels, which are held in four bytes each.
    monkeypatch.setattr(decoded, "MAX_MEMORY", WIDE * HIGH * 5)
    with pytest.raises(
        PictureError, match=r"'a' takes 0 MB to decode as .* of 24×16 pixels; expected at most"
    ):
        read_picture(tmp_path / "a")
    assert source.image.size == (WIDE, HIGH), "one that was found good stays readable"


def test_a_large_jpeg_is_looked_at_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "LARGE", 100)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(saved(art("a", 400, 200), "JPEG", quality=97, exif=exif))
    look = look_at(tmp_path / "a.jpg", small=25)
    assert look.source.size == (200, 400) and look.source.image.size == (200, 400)
    assert look.small.size == (25, 50) or look.small.size == (50, 100)
    wanted = np.asarray(look.source.image.resize(look.small.size), dtype=float)
    assert np.abs(np.asarray(look.small, dtype=float) - wanted).max() < 12


def test_out_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "check_whole", lambda *_: (_ for _ in ()).throw(MemoryError()))
    assert "'a.png' takes too much memory to decode" in refusal(tmp_path / "a.png", saved(art("a"), "PNG"))


def test_damaged_avif_is_damaged_and_needs_no_package(tmp_path: Path) -> None:
    assert "isn't a picture" in refusal(tmp_path / "a.avif", saved(art("a"), "AVIF")[:100])
    content = io.BytesIO(saved(art("a"), "AVIF"))
    assert decoded.decode("a", io.BufferedReader(content)).format == "AVIF"


def test_words_without_end_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "MAX_METADATA", 5_000)
    content = png((WIDE, HIGH), 8, 2, rows(art("a"), 8), chunk(b"eXIf", bytes(6_000)))
    assert "'a.png' has 0 MB of words beside its pixels; expected at most" in refusal(
        tmp_path / "a.png", content
    )
