"""Adapters in: every form, what lies beside them, PEFT's folders in zips; refusals with names and reasons."""

from __future__ import annotations

import base64
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import AdapterError
from pipelines.formats import edit_metadata, read_adapter
from studio import importing
from studio.context import Context
from studio.covers import cover_file
from studio.importing import take
from studio.work import adding

MakeAdapter = Callable[..., Path]


@pytest.fixture
def file(make_adapter: MakeAdapter, tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "made.safetensors", name="disc")


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_drop_goes_through_a_job(context: Context, file: Path, tmp_path: Path) -> None:
    (tmp_path / "b.ckpt").write_bytes(b"x")
    (tmp_path / "c.safetensors").write_bytes(b"broken")
    files = [
        (file, "../../<b>.safetensors"),
        (tmp_path / "b.ckpt", "b.ckpt"),
        (tmp_path / "c.safetensors", "c.safetensors"),
    ]
    job = importing.start(context, files)
    state, result = adding.adapters(context.workspace, job, threading.Event())
    assert state == "done"
    [entry] = [context.library.get(one) for one in result["adapters"]]
    assert entry.name == "disc" and entry.origin == "imported" and entry.path.parent.name == "adapters"
    reasons = dict(result["refused"])
    assert "pickle" in reasons["b.ckpt"] and "c.safetensors" in reasons["c.safetensors"]
    assert not list(context.workspace.folder("cache", "imports").iterdir())
    with pytest.raises(AdapterError, match=r"no adapter among b\.ckpt"):
        importing.start(context, files[1:2])
    again = importing.start(context, files[2:])
    with pytest.raises(AdapterError, match=r"c\.safetensors"):
        adding.adapters(context.workspace, again, threading.Event())


def test_what_lies_beside_comes_along(
    context: Context, file: Path, tmp_path: Path, pictures: list[Path]
) -> None:
    edit_metadata(file, {"triggers": None})
    sidecar = tmp_path / "a.json"
    sidecar.write_text(json.dumps({"activation text": "zuv disc, ink", "notes": "at 0.8", "description": 5}))
    files = [
        (file, "a.safetensors"),
        (sidecar, "a.json"),
        (pictures[0], "a.preview.png"),
        (pictures[1], "b.png"),
    ]
    taken = take(context.library, files)
    [(entry, new)] = taken.entries
    assert new and entry.triggers == ["zuv disc", "ink"]
    assert read_adapter(entry.path).metadata["modelspec.usage_hint"] == "at 0.8"
    assert (found := cover_file(context.workspace, entry)) is not None and found.suffix == ".jpg"
    assert [name for name, _ in taken.refused] == ["b.png"]


def test_an_import_that_was_killed_gets_what_lies_beside_when_it_is_tried_again(
    context: Context, file: Path, tmp_path: Path, pictures: list[Path]
) -> None:
    edit_metadata(file, {"triggers": None})
    sidecar = tmp_path / "a.json"
    sidecar.write_text(json.dumps({"activation text": "zuv disc"}))
    take(context.library, [(file, "a.safetensors")])  # and no further
    files = [(file, "a.safetensors"), (sidecar, "a.json"), (pictures[0], "a.png")]
    [(entry, new)] = take(context.library, files).entries
    assert not new and entry.triggers == ["zuv disc"] and cover_file(context.workspace, entry) is not None
    context.library.set_cover(entry.id, None)
    job = importing.start(context, files)
    _, result = adding.adapters(context.workspace, job, threading.Event())
    assert not importing.folder_of(context.workspace, job).exists()
    # Killed before the index said so: what was dropped is gone, and the answer is there.
    assert adding.adapters(context.workspace, context.jobs.get(job.id), threading.Event()) == ("done", result)


def test_the_picture_inside_becomes_the_cover(context: Context, file: Path, pictures: list[Path]) -> None:
    edit_metadata(file, {"cover": str(pictures[0])})
    [(entry, _)] = take(context.library, [(file, "a.safetensors")]).entries
    assert cover_file(context.workspace, entry) is not None
    assert "modelspec.thumbnail" not in entry.info["metadata"], "the index keeps no long texts"
    broken = base64.b64encode(b"no picture").decode()
    edit_metadata(file, {"modelspec.thumbnail": f"data:image/png;base64,{broken}"})
    [(entry, new)] = take(context.library, [(file, "b.safetensors")]).entries
    assert new and entry.cover is None


def test_peft_folders_and_files_come_out_of_a_zip(
    context: Context, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from pipelines.formats import write_adapter

    first = read_adapter(make_adapter(tmp_path / "x.safetensors", seed=1, name="x"))
    write_adapter(first, tmp_path / "peft", "peft", "fp32")
    other = make_adapter(tmp_path / "y.safetensors", seed=2, name="y").read_bytes()
    members = {f"shared/nice one/{path.relative_to(tmp_path / 'peft').as_posix()}": path.read_bytes()
               for path in (tmp_path / "peft").rglob("*") if path.is_file()}  # fmt: skip
    members |= {"../../evil.safetensors": other, "readme.txt": b"hello", "__MACOSX/._y.safetensors": b"x"}
    path = zipped(tmp_path / "all.zip", **members)
    taken = take(context.library, [(path, "all.zip")])
    assert not taken.refused
    names = {entry.name: entry for entry, _ in taken.entries}
    assert set(names) == {"x", "y"}
    again = read_adapter(names["x"].path)
    assert again.factors.keys() == first.factors.keys() and names["x"].info["dtype"] == "F32"
    assert not list(tmp_path.parent.rglob("evil*"))


def test_a_zip_without_an_adapter_or_too_much_in_it_is_refused(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    empty = zipped(tmp_path / "e.zip", **{"a.txt": b"x"})
    broken = tmp_path / "b.zip"
    broken.write_bytes(b"PK no zip")
    bomb = zipped(tmp_path / "big.zip", **{"a.json": b"0" * 5000})
    monkeypatch.setattr(importing, "SIDECAR_LIMIT", 1000)
    many = zipped(tmp_path / "many.zip", **{f"{number}.json": b"{}" for number in range(4)})
    taken = take(context.library, [(empty, "e.zip"), (broken, "b.zip"), (bomb, "big.zip")])
    said = dict(taken.refused)
    assert "no adapter" in said["e.zip"] and "unpacked" in said["b.zip"] and "unpacks to" in said["big.zip"]
    monkeypatch.setattr(importing, "MAX_MEMBERS", 3)
    assert "at most 3" in dict(take(context.library, [(many, "many.zip")]).refused)["many.zip"]
    assert not list(context.workspace.folder("adapters").iterdir())


def test_an_import_that_was_interrupted_can_be_tried_again(context: Context, file: Path) -> None:
    name = f"{'x' * 250}.safetensors"
    job = importing.start(context, [(file, name)])
    context.jobs.stop(job.id)
    again = context.jobs.retry(job.id)
    assert again.id != job.id
    _, result = adding.adapters(context.workspace, again, threading.Event())
    assert not result["refused"] and len(result["adapters"]) == 1
    with pytest.raises(AdapterError, match="drop it again"):
        adding.adapters(context.workspace, context.jobs.retry(job.id), threading.Event())


def test_what_waits_to_be_imported_is_kept_for_as_long_as_it_waits(
    context: Context, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = importing.start(context, [(file, "a.safetensors")])
    left = importing.start(context, [(file, "b.safetensors")])
    context.jobs.stop(left.id)
    monkeypatch.setattr(importing, "KEPT_FOR", -60.0)
    importing.start(context, [(file, "c.safetensors")])
    assert importing.folder_of(context.workspace, waiting).is_dir()
    assert not importing.folder_of(context.workspace, left).exists()


def test_damaged_zips_and_bombs_are_refused_alone(context: Context, file: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.zip"
    with zipfile.ZipFile(torn, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "a.safetensors")
    content = bytearray(torn.read_bytes())
    content[60:400] = b"\xff" * 340  # zlib's error is of no class of zipfile's
    torn.write_bytes(content)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.safetensors", bytes(20 << 20))
    taken = take(context.library, [(torn, "torn.zip"), (bomb, "bomb.zip"), (file, "good.safetensors")])
    said = dict(taken.refused)
    assert "unpacked" in said["torn.zip"] and "unpacks to" in said["bomb.zip"]
    assert len(taken.entries) == 1
