"""What files say of themselves: written, carried, edited without touching a tensor, read from beside."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.files import file_sha256
from pipelines.formats import FORMATS, edit_metadata, inspect_adapter, read_adapter, write_adapter
from pipelines.formats.container import read_header
from pipelines.formats.editing import FIELDS
from tests.tiny import random_adapter

FILES = [row.id for row in FORMATS.values() if row.kind == "file" and row.holds("lora")]


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def data_of(path: Path) -> bytes:
    return path.read_bytes()[read_header(path).data_start :]


def test_what_the_adapter_carries_is_written_and_comes_back(tiny_base: Base, tmp_path: Path) -> None:
    carried = {
        "modelspec.description": "Zwölf",
        "modelspec.author": "me",
        "modelspec.license": "CC0-1.0",
        "modelspec.date": "2026-01-02",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "modelspec.thumbnail": "data:image/jpeg;base64,AAAA",
        "modelspec.merged_from": "one, other",
        "ssmd_cover_images": "[]",
        "ss_tag_frequency": "{}",
        "config": '{"rank": 4}',
    }
    adapter = Adapter(name="a", factors=random_adapter(tiny_base).factors, metadata=carried)
    for format in FILES:
        path = tmp_path / f"{format}.safetensors"
        write_adapter(adapter, path, format)
        written = header_of(path)
        for key, value in carried.items():
            if key != "config":
                assert written[key] == value
            assert read_adapter(path).metadata[key] == value
        assert json.loads(written["pigment"])["metadata"] == {"config": '{"rank": 4}'}


@pytest.mark.parametrize("in_place", [True, False])
def test_editing_leaves_every_tensor_byte_as_it_was(tiny_base: Base, tmp_path: Path, in_place: bool) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    before, tensors, facts = data_of(path), load_file(path), header_of(path)
    old = path.read_bytes()
    changes = {
        "title": "Zwölf", "triggers": "new, words", "description": "d", "author": "me", "license": "CC0",
        "date": "2026-01-02", "notes": "n", "steps": "301", "ss_tag_frequency": "{}", "ss_v2": None,
    }  # fmt: skip
    sha256 = edit_metadata(path, changes, None if in_place else other)
    edited = path if in_place else other
    assert sha256 == file_sha256(edited)
    if not in_place:
        assert path.read_bytes() == old
    assert data_of(edited) == before
    assert load_file(edited).keys() == tensors.keys()
    after = header_of(edited)
    for key in ("modelspec.hash_sha256", "sshs_model_hash"):
        assert after[key] == facts[key]
    assert (after["modelspec.title"], after["ss_tag_frequency"]) == ("Zwölf", "{}")
    assert "ss_v2" not in after
    back = read_adapter(edited)
    assert (back.name, back.triggers, back.metadata["steps"]) == ("Zwölf", ("new", "words"), "301")
    assert back.metadata["modelspec.usage_hint"] == "n"
    assert inspect_adapter(edited)["title"] == "Zwölf"
    edit_metadata(edited, dict.fromkeys(changes), None)
    assert "modelspec.description" not in header_of(edited)
    assert read_adapter(edited).triggers == ()
    assert data_of(edited) == before


def test_foreign_files_are_edited_too(tiny_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    save_file(load_file(path), path)
    before = data_of(path)
    edit_metadata(path, {"title": "x", "triggers": "y"})
    assert data_of(path) == before
    assert header_of(path) == {
        "modelspec.title": "x", "ss_output_name": "x", "modelspec.trigger_phrase": "y"
    }  # fmt: skip
    assert (read_adapter(path).name, read_adapter(path).triggers) == ("x", ("y",))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cover_is_made_small(tiny_base: Base, tmp_path: Path, kind: str) -> None:
    path, picture = tmp_path / "a.safetensors", tmp_path / "cover"
    write_adapter(random_adapter(tiny_base), path)
    Image.new("RGBA" if kind == "PNG" else "RGB", (600, 300), (255, 0, 0)).save(picture, kind)
    edit_metadata(path, {"cover": str(picture)})
    scheme, _, data = header_of(path)["modelspec.thumbnail"].partition(",")
    assert scheme == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as cover:
        assert cover.size == (256, 128)
        seen: Any = cover.getpixel((9, 9))
        assert max(abs(a - b) for a, b in zip(seen, (255, 0, 0), strict=True)) < 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"modelspec.hash_sha256": "0x0"}, "states a fact about the file"),
        ({"pigment": "{}"}, "states a fact about the file"),
        ({"titel": "x"}, "unknown metadata field 'titel'; did you mean 'title'"),
        ({"title": 5}, "must be text"),
        ({"description": "x" * 1_000_001}, "shorten the texts"),
        ({"cover": "nowhere.png"}, "can't be read as a cover"),
    ],
)
def test_bad_edits_are_refused_and_change_nothing(
    tiny_base: Base, tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    before = path.read_bytes()
    with pytest.raises(AdapterError, match=says) as refusal:
        edit_metadata(path, {"author": "me", **changes})
    assert len(str(refusal.value)) < 300
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_cover_that_is_too_large_or_no_picture_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    path, picture = tmp_path / "a.safetensors", tmp_path / "cover.png"
    write_adapter(random_adapter(tiny_base), path)
    Image.new("1", (9000, 9000)).save(picture)
    with pytest.raises(AdapterError, match="9000×9000 pixels; make it smaller"):
        edit_metadata(path, {"cover": str(picture)})
    Image.new("RGB", (90, 90), "red").save(picture)
    picture.write_bytes(picture.read_bytes()[:-40])
    with pytest.raises(AdapterError, match="can't be read as a cover"):
        edit_metadata(path, {"cover": str(picture)})


def test_every_field_for_people_is_read_back_from_its_key(tiny_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    for name in FIELDS.keys() - {"cover"}:
        edit_metadata(path, {name: f"the {name}"})
    after = header_of(path)
    for name, field in FIELDS.items():
        if name != "cover":
            assert all(after[key] == f"the {name}" for key in field.keys)


def test_a_sidecar_says_what_the_file_doesnt(tiny_base: Base, tmp_path: Path) -> None:
    path, beside = tmp_path / "a.safetensors", tmp_path / "a.json"
    write_adapter(random_adapter(tiny_base), path)
    beside.write_text(json.dumps({"activation text": "other", "description": "d", "preferred weight": 0.8,
                                  "notes": ["no text"]}))  # fmt: skip
    own = read_adapter(path)
    assert own.triggers == ("zwx",)
    assert (own.metadata["modelspec.description"], own.metadata["preferred_weight"]) == ("d", "0.8")
    save_file(load_file(path), path, metadata={"modelspec.description": "own"})
    for triggers, metadata in (
        (read_adapter(path).triggers, read_adapter(path).metadata),
        (tuple(inspect_adapter(path)["triggers"]), inspect_adapter(path)["metadata"]),
    ):
        assert triggers == ("other",)
        assert metadata["modelspec.description"] == "own"
        assert "modelspec.usage_hint" not in metadata
    for broken in ("[1]", "{", '{"activation text": 5}', "\udcff"):
        beside.write_bytes(broken.encode(errors="surrogateescape"))
        assert read_adapter(path).triggers in ((), ("5",))
