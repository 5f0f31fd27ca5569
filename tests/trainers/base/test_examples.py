"""assets/examples is what `python -m trainers.base.examples draw` makes, and says what it holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.base import ASSETS
from pipelines.errors import StudioError
from trainers.base.examples import STYLE_SETS, SUBJECT_SETS, draw, main
from trainers.base.glyphs import find_font
from trainers.base.subjects import CLASS_WORDS, by_name

EXAMPLES = ASSETS / "examples"
SETS = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))["sets"]


@pytest.mark.parametrize("row", SETS, ids=lambda row: row["id"])
def test_every_picture_is_there_with_its_caption(row: dict) -> None:
    folder = EXAMPLES / row["id"]
    assert len(row["pictures"]) == {"subject": 5, "style": 12}[row["kind"]]
    assert sorted(p.name for p in folder.glob("*.png")) == row["pictures"] == list(row["captions"])
    for name, caption in row["captions"].items():
        assert (folder / name).with_suffix(".txt").read_text(encoding="utf-8").strip() == caption
        assert row["trigger"] in caption
    for name in (*row["pictures"], *row["held_out"]):
        with Image.open(folder / name) as picture:
            assert (picture.mode, picture.size) == ("RGB", (128, 128))
    assert row["trigger"] in row["instance_prompt"] and row["trigger"] not in row["class_prompt"]


@pytest.mark.parametrize("row", SUBJECT_SETS, ids=lambda row: row.id)
def test_a_subject_is_measured_where_it_was_never_shown(row) -> None:
    assert not {place for place, _ in row.taught} & {place for place, _ in row.held_out}
    assert row.class_name in {word for words in CLASS_WORDS.values() for word in words}
    with pytest.raises(KeyError):
        by_name(row.id if row.id != "teapot" else row.trigger)


@pytest.mark.parametrize("row", STYLE_SETS, ids=lambda row: row.id)
def test_a_style_is_tried_on_subjects_it_was_never_shown_on(row) -> None:
    taught = {name for name, _ in row.taught}
    unseen = set(row.unseen)
    assert len(taught) == 12 and len(unseen) >= 3 and not taught & unseen
    assert all(by_name(name) for name in taught | unseen)


def test_drawing_again_gives_the_same_pictures(tmp_path: Path) -> None:
    try:
        find_font()
    except StudioError as error:
        pytest.skip(str(error))
    draw(tmp_path)
    assert (tmp_path / "examples.json").read_bytes() == (EXAMPLES / "examples.json").read_bytes()
    for row in SETS:
        for name in (*row["pictures"], *row["held_out"]):
            old, new = (np.asarray(Image.open(top / row["id"] / name), int) for top in (EXAMPLES, tmp_path))
            # Another release of the font may differ a little.
            assert np.abs(old - new).mean() < 2, f"{row['id']}/{name}"


def test_without_the_font_nothing_is_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("trainers.base.glyphs.FONT_PLACES", ("/nowhere/NotoColorEmoji.ttf",))
    assert main(["draw", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "fonts-noto-color-emoji" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
