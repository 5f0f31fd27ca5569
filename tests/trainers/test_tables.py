"""Tables of captions: what is read, and what is refused by its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import PictureError
from trainers import tables
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.tables import Row, read_table

Make = Callable[..., TrainConfig]


def table(folder: Path, text: str | bytes, name: str = "metadata.jsonl") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def test_jsonl_gives_captions_and_repeats(make_config: Make, pictures: Path) -> None:
    table(
        pictures,
        '\ufeff{"file_name": "01.png", "text": "a  zuv\\non teal", "repeats": 3}\n\n'
        '{"file": "./00.png", "caption": "zuv first"}\n',
    )
    data = load_dataset(make_config(captions="table", held_out=0, repeats=2).data)
    assert [(item.caption, item.repeats) for item in data.learn[:3]] == [
        ("zuv first", 2), ("a zuv on teal", 3), ("a zuv disc", 2),
    ]  # fmt: skip
    assert any("no caption for 02.png, 03.png, 04.png" in note for note in data.notes)


def test_csv_gives_the_same(make_config: Make, pictures: Path) -> None:
    table(pictures, 'file,caption,repeats\n00.png,"zuv, red\nand round",\n01.png,zuv,4\n', "mine.csv")
    data = load_dataset(make_config(captions="table", captions_file="mine.csv", held_out=0).data)
    assert [(item.caption, item.repeats) for item in data.learn[:2]] == [
        ("zuv, red and round", 1),
        ("zuv", 4),
    ]


def test_columns_that_mean_nothing_here_are_said(make_config: Make, pictures: Path) -> None:
    table(pictures, '{"file": "00.png", "caption": "zuv", "score": 1, "width": 3}\n')
    notes = load_dataset(make_config(captions="table").data).notes
    assert any("not used are the columns score, width" in note for note in notes)


def test_the_first_known_name_is_read(make_config: Make, pictures: Path) -> None:
    table(pictures, "file,caption\n00.png,zuv from csv\n", "captions.csv")
    assert load_dataset(make_config(captions="table").data).learn[0].caption == "zuv from csv"
    table(pictures, '{"file": "00.png", "caption": "zuv from jsonl"}', "metadata.jsonl")
    assert load_dataset(make_config(captions="table").data).learn[0].caption == "zuv from jsonl"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"file": "10.png"}', r"line 1: no picture '10\.png' in the folder; did you mean"),
        ('{"file": "../00.png"}', r"no picture '\.\./00\.png'"),
        ('{"caption": "zuv"}', "line 1: no picture ''"),
        ('{"file": "00.png"}\n{"image": "00.png"}', r"line 2: picture '00\.png' comes a second time"),
        ('{"file": "00.png"\n', "line 1 isn't JSON"),
        ("[" * 100_000, "line 1 isn't JSON"),
        ('{"file": "00.png", "repeats": ' + "9" * 5000 + "}", "line 1 isn't JSON"),
        ('["00.png"]', "line 1 isn't an object"),
        ('{"file": "00.png", "caption": 3}', "caption is int, expected text"),
        ('{"file": "00.png", "caption": "' + "a" * 10_001 + '"}', "longer than 10000 bytes"),
        ('{"file": "00.png", "text": "a", "caption": "b"}', "both 'caption' and 'text'"),
        ('{"file": "00.png", "repeats": 0}', "repeats is '0', expected a whole number from 1 to 1000"),
        ('{"file": "00.png", "repeats": 1001}', "repeats is '1001'"),
        ('{"file": "00.png", "repeats": 1.5}', "repeats is '1.5'"),
        ('{"file": "00.png", "repeats": true}', "repeats is 'True'"),
        ('{"file": "00.png", "repeats": "²"}', "repeats is '²'"),
        ('{"file": "00.png", "mask": 5}', "mask is int"),
        (b"\xff\xfe{", "isn't UTF-8"),
    ],
)
def test_bad_jsonl_is_refused_by_its_line(pictures: Path, text: str | bytes, words: str) -> None:
    path = table(pictures, text)
    with pytest.raises(PictureError, match=words) as caught:
        read_table(path, sorted(pictures.glob("*.png")))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,caption\n00.png,zuv\n", "has no column 'file'"),
        ("", "has no column 'file'"),
        ("file,caption,caption\n00.png,a,b\n", "names a column twice"),
        ("file,caption\n00.png,zuv, red\n", "line 2 has more or fewer columns"),
        ("file,caption\n00.png\n", "line 2 has more or fewer columns"),
        ('file,caption\n00.png,"zuv', "isn't CSV"),
        ("file,caption\n00.png," + "a" * 150_000 + "\n", "isn't CSV"),
        ("file,caption\n00.png," + "a" * 200_000 + "\n", "line 2 is longer than 200000 characters"),
        ("file" + "," * 300_000, "line 1 is longer than 200000 characters"),
        ("file,caption\n" + '"\n",' * 60_000, "row of more than 200000 characters; is a quote left open"),
    ],
)
def test_bad_csv_is_refused(pictures: Path, text: str, words: str) -> None:
    path = table(pictures, text, "metadata.csv")
    with pytest.raises(PictureError, match=words):
        read_table(path, sorted(pictures.glob("*.png")))


def test_a_huge_table_is_refused_unread(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(pictures, '{"file": "00.png"}')
    assert read_table(path, [pictures / "00.png"])[0] == {pictures / "00.png": Row()}
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10)
    with pytest.raises(PictureError, match="more than 10 bytes"):
        read_table(path, [pictures / "00.png"])


@pytest.mark.parametrize(
    ("name", "words"), [("", "one of metadata.jsonl"), ("own.csv", "expected 'own.csv'")]
)
def test_a_missing_table_is_refused(make_config: Make, name: str, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        load_dataset(make_config(captions="table", captions_file=name).data)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80), suffix=st.sampled_from([".jsonl", ".csv"]))
def test_whatever_stands_in_a_table_only_picture_errors_come_out(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = table(tmp_path, content, "a" + suffix)
    try:
        rows, _ = read_table(path, [tmp_path / "0"])
    except PictureError:
        return
    assert set(rows) <= {tmp_path / "0"}


@pytest.mark.parametrize(
    "text",
    [
        "file;caption\n00.png;zuv, red\n",
        "file\tcaption\n00.png\tzuv, red\n",
        'File, Caption\r\n00.png, "zuv, red"\r\n',
    ],
)
def test_what_spreadsheets_make_of_a_csv_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    rows, notes = read_table(tmp_path / "t.csv", [tmp_path / "00.png"])
    assert rows == {tmp_path / "00.png": Row(caption="zuv, red")} and notes == []
