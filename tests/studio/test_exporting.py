"""Taking an adapter away from the page: forms that hold it, plain LoRA for the others, folders as zips."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats import FORMATS, read_adapter, write_adapter
from pipelines.methods import METHODS
from pipelines.tools import half
from studio import exporting
from studio.context import Context
from studio.library import Entry
from studio.maker import Maker
from tests.pipelines.making import random_adapter_of
from tests.tiny import target_modules


def entry_of(context: Context, base: Base, method: str, path: Path) -> Entry:
    write_adapter(random_adapter_of(base, method, target_modules(base)), path, "pigment")
    return context.library.add(path, name=method)[0]


@pytest.mark.parametrize("method", ["lora", "loha", "oft"])
def test_every_form_is_offered_exactly_or_as_plain_lora(
    context: Context, tiny_base: Base, tmp_path: Path, method: str
) -> None:
    entry = entry_of(context, tiny_base, method, tmp_path / "a.safetensors")
    offered = [form for _, form in exporting.choices(entry)]
    exact = [form for form in FORMATS if FORMATS[form].holds(method)]
    assert offered[: len(exact)] == exact
    assert {"kohya", "diffusers", "peft", "pigment"} <= set(offered)
    assert "embedding" not in offered
    assert exporting.becomes_lora("kohya", entry) == (method != "lora")
    assert exporting.methods_of(entry) == [method] and method in METHODS


def test_another_method_leaves_as_plain_lora_with_its_error(
    context: Context, tiny_base: Base, tiny_folder: Path, tmp_path: Path
) -> None:
    entry = entry_of(context, tiny_base, "loha", tmp_path / "a.safetensors")
    target = context.export_path(entry, "kohya")
    target.parent.mkdir(parents=True)
    answer = Maker(context.workspace).export(entry.id, "kohya", str(target), str(tiny_folder), as_lora=4)
    assert read_adapter(target).methods == ("lora",)
    assert 0 < answer["report"]["lora_error"] < 1
    assert "as plain LoRA" in answer["text"]
    with pytest.raises(AdapterError, match="plain LoRA"):
        Maker(context.workspace).export(entry.id, "kohya", str(target), str(tiny_folder))


def test_weights_and_words_leave_as_two_files(
    context: Context, tiny_base: Base, tiny_folder: Path, tmp_path: Path
) -> None:
    plain = random_adapter_of(tiny_base, "lora", target_modules(tiny_base))
    words = {"zuv": {"text_encoder": torch.full((2, 32), 0.1)}}
    write_adapter(replace(plain, tokens=words), tmp_path / "both.safetensors", "pigment")
    entry = context.library.add(tmp_path / "both.safetensors", name="both")[0]
    offered = {form: label for label, form in exporting.choices(entry)}
    assert "weights alone" in offered["kohya"] and "words alone" in offered["embedding"]
    assert "alone" not in offered["pigment"]
    for form, modules, tokens in (("kohya", True, False), ("embedding", False, True)):
        target = context.export_path(entry, form)
        target.parent.mkdir(parents=True, exist_ok=True)
        Maker(context.workspace).export(entry.id, form, str(target), str(tiny_folder))
        back = read_adapter(target)
        assert (bool(back.factors), bool(back.tokens)) == (modules, tokens)
    with pytest.raises(AdapterError, match="has no words"):
        half(plain, "words")


def test_the_picture_shown_goes_with_the_file(context: Context, tmp_path: Path) -> None:
    context.library.add_examples()
    entry = next(entry for entry in context.library.entries() if entry.origin == "example")
    target = context.export_path(entry, "kohya")
    target.parent.mkdir(parents=True)
    Maker(context.workspace).export(entry.id, "kohya", str(target))
    url = read_adapter(target).metadata["modelspec.thumbnail"]
    assert url.startswith("data:image/jpeg;base64,") and len(url) < 100_000
    context.library.set_cover(entry.id, "image/gone")
    assert exporting.cover_file(context.workspace, context.library.get(entry.id)) is None


def test_a_folder_leaves_as_a_zip(
    context: Context, tiny_base: Base, tiny_folder: Path, tmp_path: Path
) -> None:
    entry = entry_of(context, tiny_base, "lora", tmp_path / "a.safetensors")
    target = context.export_path(entry, "peft")
    assert target.name == "lora-peft.zip"
    target.parent.mkdir(parents=True)
    Maker(context.workspace).export(entry.id, "peft", str(target), str(tiny_folder))
    assert [path.name for path in target.parent.iterdir()] == ["lora-peft.zip"]
    with zipfile.ZipFile(target) as archive:
        archive.extractall(tmp_path / "out")
    back = read_adapter(tmp_path / "out" / "lora-peft")
    assert back.factors.keys() == read_adapter(entry.path).factors.keys()
