"""Captioners and judges by a hub id: what is fetched, what is found again, and what is never fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.bases.named import model_folder
from pipelines.errors import BaseError
from tests.pipelines.bases.hub_server import Hub, serving


@pytest.fixture
def hub(tmp_path: Path, online: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one network, and much beside it that isn't for us."""
    folder = tmp_path / "served"
    (folder / "onnx").mkdir(parents=True)
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    for name in ("pytorch_model.bin", "modeling.py", "README.md", "onnx/model.safetensors"):
        (folder / name).write_bytes(b"not for us")
    with serving(Hub(folder)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def refusal(name: str) -> str:
    with pytest.raises(BaseError) as caught:
        model_folder(name, "judge")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_and_words_alone_are_fetched_and_found_again(hub: Hub) -> None:
    folder = model_folder("org/tiny", "judge")
    assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "model.safetensors"]
    hub.asked.clear()
    assert model_folder("org/tiny", "judge") == folder
    assert hub.asked == []


def test_what_is_missing_of_it_is_fetched(hub: Hub) -> None:
    folder = model_folder("org/tiny", "judge")
    (folder / "model.safetensors").unlink()
    assert (model_folder("org/tiny", "judge") / "model.safetensors").is_file()


def test_a_pickle_that_an_index_names_is_not_fetched_and_not_opened(hub: Hub) -> None:
    index = {"weight_map": {"a": "pytorch_model.bin"}}
    (hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "'pytorch_model.bin' as weights" in refusal("org/tiny")
    assert "pytorch_model.bin" not in hub.fetched()


def test_pickles_alone_are_refused(hub: Hub) -> None:
    (hub.folder / "model.safetensors").unlink()
    assert "no .safetensors weights; pickles are never opened" in refusal("org/tiny")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/other", "no judge 'org/other'"),
        ("org/tiny@v9", "no revision 'v9'"),
        ("missing", "no folder here and no hub id"),
        ("org/tiny/model.safetensors", "no folder here and no hub id"),
    ],
)
def test_what_is_not_there_is_said(hub: Hub, name: str, said: str) -> None:
    assert said in refusal(name)


def test_offline_what_was_fetched_is_found_and_the_rest_is_said(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder("org/tiny", "judge")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.asked.clear()
    assert model_folder("org/tiny", "judge") == folder
    assert "HF_HUB_OFFLINE" in refusal("org/tiny@v1")
    assert hub.asked == []
