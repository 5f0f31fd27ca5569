"""Folders of weights that a library loads: what their indexes name is looked at first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.bases.shards import check_weights
from pipelines.errors import BaseError


def indexed(folder: Path, name: object) -> Path:
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    return folder


def test_shards_of_the_folder_are_let_through(tmp_path: Path) -> None:
    check_weights(indexed(tmp_path, "model.safetensors"), "it")


@pytest.mark.parametrize("name", ["evil.bin", "evil", "../model.safetensors", "/etc/x.safetensors", 5])
def test_any_other_file_is_refused(name: object, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"^it: 'model.safetensors.index.json' names"):
        check_weights(indexed(tmp_path, name), "it")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(BaseError, match=r"pickle|holds 3 bytes"):
        check_weights(tmp_path, "it")
