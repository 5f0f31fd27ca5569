"""Bases that can't be written: nothing is left of them, and one line says why."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.base import Base
from pipelines.bases import writing
from pipelines.bases.source import Source, open_source
from pipelines.bases.streaming import write_stream
from pipelines.bases.writing import write_base
from pipelines.errors import AdapterError, BaseError
from tests.tiny import random_adapter, target_modules


def fails(source: Source, path: Path, **options: Any) -> str:
    """The message of a write that must be refused; nothing may be left of it."""
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    with pytest.raises((BaseError, AdapterError)) as caught:
        write_base(source, path, **options)
    assert "\n" not in str(caught.value)
    assert (sorted(path.parent.iterdir()) if path.parent.is_dir() else []) == before
    return str(caught.value)


def test_bad_requests(tiny_folder: Path, tmp_path: Path) -> None:
    source = open_source(tiny_folder)
    (tmp_path / "there.safetensors").write_text("x")
    assert "is there already" in fails(source, tmp_path / "there.safetensors")
    assert "is there already" in fails(source, tiny_folder, layout="folder")
    assert "ending in .safetensors" in fails(source, tmp_path / "x.ckpt")
    assert "make it first" in fails(source, tmp_path / "no" / "x.safetensors")
    assert "did you mean 'folder'" in fails(source, tmp_path / "x", layout="foldr")
    assert "unknown precision 'fp8'" in fails(source, tmp_path / "x", layout="folder", dtype="fp8")
    unsaid = replace(source, prediction_type=None)
    assert "say epsilon or v_prediction" in fails(unsaid, tmp_path / "x.safetensors")


def test_numbers_too_large_for_fp16(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    module = target_modules(tiny_base)[0]
    large = random_adapter(tiny_base, [module], strength=3e5)
    message = fails(
        open_source(tiny_folder), tmp_path / "x.safetensors", dtype="fp16", mix={"a": (large, 3.0)}
    )
    assert f"{module}.weight has numbers too large for fp16" in message
    assert write_base(
        open_source(tiny_folder), tmp_path / "x.safetensors", dtype="bf16", mix={"a": (large, 3.0)}
    )


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_full_disk_leaves_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    path = tmp_path / ("x.safetensors" if layout == "file" else "x")
    source = open_source(tiny_folder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        writing.shutil, "disk_usage", lambda _: usage._replace(free=writing.DISK_MARGIN + 1000)
    )
    assert "make room" in fails(source, path, layout=layout)
    monkeypatch.undo()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in fails(source, path, layout=layout)


def test_what_comes_back_otherwise_isnt_kept(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(path: Path, *args: Any, **options: Any) -> None:
        write_stream(path, *args, **options)
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(writing, "write_stream", spoiled)
    message = fails(open_source(tiny_folder), tmp_path / "x.safetensors")
    assert "367 of 368 tensors came back equal" in message
