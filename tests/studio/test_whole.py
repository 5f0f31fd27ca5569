"""Adapters of the library that aren't any more what was taken in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import AdapterError
from studio.amending import amend
from studio.library import Library
from studio.whole import read_whole
from studio.workspace import Workspace

MakeAdapter = Callable[..., Path]


@pytest.fixture
def library(workspace: Workspace) -> Library:
    return Library(workspace)


def test_a_bit_that_turned_is_noticed(library: Library, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    entry, _ = library.add(make_adapter(tmp_path / "a.safetensors"))
    assert read_whole(library, entry).sha256 == entry.sha256
    raw = bytearray(entry.path.read_bytes())
    raw[-3] ^= 4
    entry.path.write_bytes(raw)
    with pytest.raises(AdapterError, match=r"has changed since|is damaged"):
        read_whole(library, entry)


def test_a_file_that_came_to_harm_is_not_edited_as_if_it_were_sound(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    entry, _ = library.add(make_adapter(tmp_path / "a.safetensors"))
    sound = entry.path.read_bytes()
    entry.path.write_bytes(sound[:-3] + bytes([sound[-3] ^ 4]) + sound[-2:])
    with pytest.raises(AdapterError, match="has changed since"):
        amend(library, entry.id, {"author": "Ada"})
    entry.path.write_bytes(sound)
    assert amend(library, entry.id, {"author": "Ada"}).sha256 != entry.sha256


def test_one_that_is_edited_meanwhile_is_read_as_it_is(
    library: Library, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    before, _ = library.add(make_adapter(tmp_path / "a.safetensors"))
    after = amend(library, before.id, {"author": "Ada"})
    assert read_whole(library, before).sha256 == after.sha256 != before.sha256
