"""Tables of captions: a JSONL or CSV file beside the pictures, read as data that may be hostile."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pipelines.errors import PictureError, nearest

TABLE_NAMES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
"""Looked for in this order where the config names no table."""
COLUMNS = {
    "file": ("file", "file_name", "image"),
    "caption": ("caption", "text"),
    "repeats": ("repeats",),
    "mask": ("mask",),
}
"""Names that a column may have, by what it holds."""
MAX_TABLE_BYTES = 20_000_000
MAX_CAPTION_BYTES = 10_000
MAX_LINE = 200_000
"""Characters of one line, or of the lines that make one row: a caption in \\u0000 signs, and room."""
MAX_REPEATS = 1000


# Unicode Standard Annex 9, section 2: what embeds, overrides and isolates directions.
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is written about one picture. caption: empty for none. mask: a file's name. None: not said."""

    caption: str = ""
    repeats: int | None = None
    mask: str | None = None


def one_line(text: str) -> str:
    """Return a text with single spaces for whitespace, and without characters that control a terminal or
    turn round what stands after them."""
    spaced = " ".join(text.split())
    return "".join(
        char for char in spaced if unicodedata.category(char) not in ("Cc", "Cs") and char not in _TURNING
    )


def find_table(folder: Path, name: str) -> Path:
    """Return the table in a folder of pictures. name: as configured; empty: the first of TABLE_NAMES there.

    Raises: PictureError where there is none.
    """
    for known in (name,) if name else TABLE_NAMES:
        if (folder / known).is_file():
            return folder / known
    expected = repr(name) if name else f"one of {', '.join(TABLE_NAMES)}"
    raise PictureError(f"table of captions: expected {expected} in {str(folder)!r}; put it there")


def read_table(path: Path, pictures: Sequence[Path]) -> tuple[dict[Path, Row], list[str]]:
    """Read a table's rows by picture, and notes that a person should read.

    pictures: those that rows may name, by their path from the table's folder ("a.png", "10_zuv/a.png").

    Raises: PictureError naming the table and line: too large, not UTF-8, malformed, a picture that isn't
    there or comes twice, a caption that is too long, repeats that are no number from 1 to MAX_REPEATS.
    """
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise PictureError(f"table {path.name!r} has more than {MAX_TABLE_BYTES} bytes; make it smaller")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _rows(path, file, pictures)
    except UnicodeDecodeError:
        raise PictureError(f"table {path.name!r} isn't UTF-8 text; save it again as UTF-8") from None


def _rows(path: Path, file: TextIO, pictures: Sequence[Path]) -> tuple[dict[Path, Row], list[str]]:
    """As `read_table`, of the opened file."""
    known = {picture.relative_to(path.parent).as_posix(): picture for picture in pictures}
    rows: dict[Path, Row] = {}
    unused: dict[str, None] = {}
    reader = _json_rows if path.suffix.lower() == ".jsonl" else _csv_rows
    for line, values in reader(path.name, file):
        place = f"table {path.name!r} line {line}"
        name = str(_value(values, "file", place) or "").replace("\\", "/").removeprefix("./")
        if name not in known:
            shown = name if len(name) <= 100 else name[:97] + "..."
            raise PictureError(f"{place}: no picture {shown!r} in the folder{nearest(name[:100], known)}")
        if known[name] in rows:
            raise PictureError(f"{place}: picture {name!r} comes a second time; leave one out")
        rows[known[name]] = _row(values, place)
        columns = {column for names in COLUMNS.values() for column in names}
        unused.update(dict.fromkeys(one_line(str(key))[:40] for key in values if key not in columns))
    notes = [f"table {path.name!r}: not used are the columns {', '.join(list(unused)[:8])}"] if unused else []
    return rows, notes


def _row(values: dict[str, Any], place: str) -> Row:
    """Check and take what one line says."""
    caption = _value(values, "caption", place)
    if caption is not None and not isinstance(caption, str):
        raise PictureError(
            f"{place}: the caption is {type(caption).__name__}, expected text; put it in quotes"
        )
    if caption and len(caption.encode(errors="replace")) > MAX_CAPTION_BYTES:
        raise PictureError(f"{place}: the caption is longer than {MAX_CAPTION_BYTES} bytes; shorten it")
    mask = _value(values, "mask", place)
    if mask is not None and not isinstance(mask, str):
        raise PictureError(f"{place}: the mask is {type(mask).__name__}, expected a file's name")
    return Row(
        caption=one_line(caption or ""), repeats=_repeats(_value(values, "repeats", place), place), mask=mask
    )


def _repeats(value: Any, place: str) -> int | None:
    if value is None:
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isdecimal() and text.isascii() and len(text) <= 4):
        number = 0
    else:
        number = int(text)
    if not 1 <= number <= MAX_REPEATS:
        raise PictureError(
            f"{place}: repeats is {text[:20]!r}, expected a whole number from 1 to {MAX_REPEATS}"
        )
    return number


def _value(values: dict[str, Any], kind: str, place: str) -> Any:
    """The value of the one column of a kind; None where there is none or nothing in it."""
    found = [name for name in COLUMNS[kind] if values.get(name) not in (None, "")]
    if len(found) > 1:
        raise PictureError(f"{place}: both {found[0]!r} and {found[1]!r} are there; leave one out")
    return values[found[0]] if found else None


def _lines(name: str, file: TextIO) -> Iterator[str]:
    """Yield the lines of a table, none of them too long to be held."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise PictureError(
                f"table {name!r} line {number} is longer than {MAX_LINE} characters; write one picture a line"
            )
        yield line


def _json_rows(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, values) of a JSONL file; empty lines are passed over."""
    for line, content in enumerate(_lines(name, file), start=1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            raise PictureError(f"table {name!r} line {line} isn't JSON; write one object a line") from None
        if not isinstance(values, dict):
            raise PictureError(f"table {name!r} line {line} isn't an object; write one object a line")
        yield line, values


def _csv_rows(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, values) of a CSV file whose first line names the columns, in any case of letters.

    What is between columns is the first of comma, semicolon and tab that the first line has.
    """
    first = next(_lines(name, file), "")
    file.seek(0)
    # Some spreadsheets write ";" where a comma is part of numbers.
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    fed = 0  # characters since the last row: one in quotes may have many lines

    def lines() -> Iterator[str]:
        nonlocal fed
        for line in _lines(name, file):
            fed += len(line)
            if fed > MAX_LINE:
                raise PictureError(
                    f"table {name!r} has a row of more than {MAX_LINE} characters; is a quote left open?"
                )
            yield line

    reader = csv.DictReader(lines(), strict=True, delimiter=delimiter, skipinitialspace=True)
    try:
        columns = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        if not set(columns) & set(COLUMNS["file"]):
            raise PictureError(
                f"table {name!r} has no column {COLUMNS['file'][0]!r} in its first line; name it there"
            )
        if len(set(columns)) < len(columns):
            raise PictureError(f"table {name!r} names a column twice; leave one out")
        for values in reader:
            fed = 0
            if None in values or None in values.values():
                raise PictureError(
                    f"table {name!r} line {reader.line_num} has more or fewer columns than the first; "
                    "put captions with commas in quotes"
                )
            yield reader.line_num, dict(values)
    except csv.Error as error:
        raise PictureError(f"table {name!r} line {reader.line_num} isn't CSV ({error}); mend it") from None
