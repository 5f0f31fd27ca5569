"""JSON that a stranger wrote."""

from __future__ import annotations

import json

import pytest

from pipelines.plain_json import parse_json


def test_it_says_what_json_says() -> None:
    said = {"a": [1, 2.5, None, True], "é": "\U0001f600", "pair": "😀"}
    assert parse_json(json.dumps(said)) == said  # signs as halves that belong together
    assert parse_json(json.dumps(said, ensure_ascii=False).encode()) == said
    assert parse_json('{"a": 1, "a": 2}', lambda pairs: [key for key, _ in pairs]) == ["a", "a"]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        "{}".encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b"[" * 200_000,
        b"",
    ],
)
def test_what_others_dont_read_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(raw)
