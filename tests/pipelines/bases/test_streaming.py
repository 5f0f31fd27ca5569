"""Safetensors files written tensor by tensor."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from pipelines.bases.streaming import Planned, write_stream
from pipelines.errors import BaseError


def test_tensors_are_made_one_after_the_other(tmp_path: Path) -> None:
    """The header is on the disk before the first tensor is asked for, and each is written before the next."""
    path, seen = tmp_path / "x.safetensors", []

    def make(name: str) -> torch.Tensor:
        seen.append((name, path.exists()))
        return torch.full((2,), float(len(seen)))

    planned = {name: Planned(torch.float32, (2,)) for name in ("b", "a")}
    write_stream(path, planned, make, {"k": "v"}, hashed=("h",))
    assert seen == [("a", True), ("b", True)]
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        assert file.get_tensor("b").tolist() == [2.0, 2.0]
        assert file.metadata()["h"] == hashlib.sha256(path.read_bytes()[-16:]).hexdigest()


def test_a_header_over_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="write a diffusers folder instead"):
        write_stream(tmp_path / "x.safetensors", {}, lambda name: torch.empty(0), {"k": "v" * 1_000_001})
    assert not (tmp_path / "x.safetensors").exists()
