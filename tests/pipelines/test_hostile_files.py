"""Adapter files that look hostile and aren't, and those for another family; `tests/faults/model_files.py` has
the kinds that are refused, and spoils files by the thousand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats import inspect_adapter, read_adapter, write_adapter
from pipelines.mixer import Mixer
from tests.faults.model_files_headers import container, entry
from tests.tiny import assert_unchanged, random_adapter, weights_of


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    raw = json.dumps({"<cat>": entry([1, 768], 0, 3072)}).encode().ljust(length)
    path.write_bytes(container(raw, b"\0" * 3072))
    assert inspect_adapter(path)["tokens"] == ["<cat>"]


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
    ],
)
def test_another_familys_adapter_is_refused_by_the_base(
    tiny_base: Base, tmp_path: Path, metadata: dict[str, str], family: str
) -> None:
    path = tmp_path / "other.safetensors"
    write_adapter(random_adapter(tiny_base), path, "diffusers")
    save_file(load_file(path), path, metadata=metadata)
    assert inspect_adapter(path, family="sd15")["family"] == family
    before = weights_of(tiny_base)
    with pytest.raises(AdapterError, match=f"is for {family}, base .* is sd15; choose a {family} base"):
        Mixer(tiny_base).add("other", read_adapter(path, family="sd15"))
    assert_unchanged(tiny_base, before)


def test_hostile_texts_are_data(tiny_base: Base, tmp_path: Path) -> None:
    about = {"name": "../../x\n<b>", "triggers": [1], "metadata": {"a": 5, "b": "c"}}
    path = tmp_path / "odd.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    save_file(
        load_file(path), path, metadata={"pigment": json.dumps(about), "modelspec.trigger_phrase": "x, y"}
    )
    adapter = read_adapter(path)
    assert adapter.name == "../../x <b>"
    assert adapter.triggers == ("x", "y")
    assert adapter.metadata["b"] == "c"
    save_file(load_file(path), path, metadata={"pigment": "{not json"})
    assert read_adapter(path).name == "odd"


def test_other_places_are_refused(tmp_path: Path) -> None:
    for path, says in [
        (tmp_path / "nowhere.safetensors", "No such file"),
        (tmp_path / "model.ckpt", "is a pickle file"),
        (tmp_path / "model.pt", "is a pickle file"),
        (tmp_path, "no file|Is a directory"),
    ]:
        with pytest.raises(AdapterError, match=says):
            read_adapter(path)


def test_two_words_of_one_name_are_refused(tmp_path: Path) -> None:
    """One of them would be gone without a word."""
    path = tmp_path / "words.safetensors"
    vectors = {"text_encoder": torch.ones(2, 32)}
    write_adapter(Adapter(name="w", tokens={"<cat>": vectors, "<dog>": vectors}), path, "pigment")
    about = {"tokens": ["<cat>", "<cat>"]}
    save_file(load_file(path), path, metadata={"pigment": json.dumps(about)})
    with pytest.raises(AdapterError, match="gives two of its tokens one name"):
        read_adapter(path)


def test_a_word_that_cant_be_shown_goes_by_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    write_adapter(Adapter(name="w", tokens={"<cat>": {"text_encoder": torch.ones(2, 32)}}), path, "pigment")
    for name in ("a\nb", "a" * 5000):
        save_file(load_file(path), path, metadata={"pigment": json.dumps({"tokens": [name]})})
        assert list(read_adapter(path).tokens) == ["words-0"]
