"""Taking an adapter away from the page: forms that hold it, plain LoRA for the others, folders as zips."""

from __future__ import annotations

import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import AdapterError, ConfigError
from pipelines.formats import FORMATS, read_adapter, write_adapter
from pipelines.methods import METHODS
from pipelines.tools import half
from studio import exporting
from studio.context import Context
from studio.jobs import Jobs
from studio.library import Entry
from studio.locks import FileLock
from studio.work import exporting as work
from tests.pipelines.making import random_adapter_of
from tests.tiny import target_modules


def entry_of(context: Context, base: Base, method: str, path: Path) -> Entry:
    write_adapter(random_adapter_of(base, method, target_modules(base)), path, "pigment")
    return context.library.add(path, name=method)[0]


def export(context: Context, **asked: Any) -> tuple[Path, dict[str, Any]]:
    """Do what the job of an export does, in this process: its file and its result."""
    job = exporting.start(context, exporting.ExportRequest(**asked))
    Jobs(context.workspace).claim(job.id, 1, 0.0)
    state, result = work.run(context.workspace, job, threading.Event())
    Jobs(context.workspace).finish(job.id, state, result=result)
    path = exporting.exported(context.workspace, context.jobs.get(job.id))
    assert path is not None
    return path, result


@pytest.fixture
def at_tiny(context: Context, tiny_folder: Path) -> Context:
    """The studio on the tiny base."""
    return replace(context, given=str(tiny_folder))


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
    at_tiny: Context, tiny_base: Base, tmp_path: Path
) -> None:
    entry = entry_of(at_tiny, tiny_base, "loha", tmp_path / "a.safetensors")
    path, result = export(at_tiny, adapter=entry.id, format="kohya", rank=4)
    adapter = read_adapter(path)
    assert adapter.methods == ("lora",) and adapter.rank == 4 and adapter.name == "loha"
    assert 0 < result["report"]["lora_error"] < 1 and result["report"]["psnr_db"]
    assert "as plain LoRA" in result["text"]
    with pytest.raises(ConfigError, match="as plain LoRA"):
        exporting.start(at_tiny, exporting.ExportRequest(adapter=entry.id, format="lycoris", rank=4))
    with pytest.raises(AdapterError, match="can't be exported"):
        exporting.start(at_tiny, exporting.ExportRequest(adapter=entry.id, format="embedding"))


def test_a_tool_is_offered_what_it_reads_best_first(
    context: Context, tiny_base: Base, tmp_path: Path
) -> None:
    plain = entry_of(context, tiny_base, "lora", tmp_path / "a.safetensors")
    loha = entry_of(context, tiny_base, "loha", tmp_path / "b.safetensors")
    assert exporting.suited("a1111", plain) == ["kohya"]
    assert exporting.suited("diffusers", plain)[:2] == ["diffusers", "kohya"]
    assert exporting.suited("comfyui", loha) == ["lycoris", "kohya"]
    assert {form for _, forms in exporting.TOOLS.values() for form in forms} == set(FORMATS)
    with pytest.raises(ConfigError, match="comfyui"):
        exporting.suited("comfy", plain)


def test_a_busy_device_leaves_the_picture_out_and_says_so(
    at_tiny: Context, tiny_base: Base, tmp_path: Path
) -> None:
    entry = entry_of(at_tiny, tiny_base, "lora", tmp_path / "a.safetensors")
    with FileLock(at_tiny.workspace.device_lock) as device:
        assert device.acquire()
        path, result = export(at_tiny, adapter=entry.id, dtype="fp32", as_lora=True, rank=2)
    assert result["report"]["psnr_db"] is None and "device is busy" in result["text"]
    assert read_adapter(path).rank == 2 and result["report"]["dtype"] == "fp32"


def test_a_picture_of_another_base_is_left_out(context: Context, tiny_base: Base, tmp_path: Path) -> None:
    entry = entry_of(context, tiny_base, "lora", tmp_path / "a.safetensors")
    other = replace(context, given=str(tmp_path / "gone"))
    _, result = export(other, adapter=entry.id)
    assert result["report"]["psnr_db"] is None and "no picture was compared" in result["text"]


def test_weights_and_words_leave_as_two_files(context: Context, tiny_base: Base, tmp_path: Path) -> None:
    plain = random_adapter_of(tiny_base, "lora", target_modules(tiny_base))
    words = {"zuv": {"text_encoder": torch.full((2, 32), 0.1)}}
    write_adapter(replace(plain, tokens=words), tmp_path / "both.safetensors", "pigment")
    entry = context.library.add(tmp_path / "both.safetensors", name="both")[0]
    offered = {form: label for label, form in exporting.choices(entry)}
    assert "weights alone" in offered["kohya"] and "words alone" in offered["embedding"]
    assert "alone" not in offered["pigment"]
    for form, modules, tokens in (("kohya", True, False), ("embedding", False, True)):
        back = read_adapter(export(context, adapter=entry.id, format=form, picture=False)[0])
        assert (bool(back.factors), bool(back.tokens)) == (modules, tokens)
    with pytest.raises(AdapterError, match="has no words"):
        half(plain, "words")


def test_the_picture_shown_goes_with_the_file(context: Context) -> None:
    context.library.add_examples()
    entry = next(entry for entry in context.library.entries() if entry.origin == "example")
    path, _ = export(context, adapter=entry.id, picture=False)
    url = read_adapter(path).metadata["modelspec.thumbnail"]
    assert url.startswith("data:image/jpeg;base64,") and len(url) < 100_000
    context.library.set_cover(entry.id, "image/gone")
    assert exporting.cover_file(context.workspace, context.library.get(entry.id)) is None


def test_a_folder_leaves_as_a_zip_and_old_exports_are_cleared(
    context: Context, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(context, tiny_base, "lora", tmp_path / "a.safetensors")
    target, _ = export(context, adapter=entry.id, format="peft", picture=False)
    assert [path.name for path in target.parent.iterdir()] == ["lora-peft.zip"]
    with zipfile.ZipFile(target) as archive:
        archive.extractall(tmp_path / "out")
    back = read_adapter(tmp_path / "out" / "lora-peft")
    assert back.factors.keys() == read_adapter(entry.path).factors.keys()
    monkeypatch.setattr(work, "KEPT", 1)
    newer, _ = export(context, adapter=entry.id, picture=False)
    assert newer.is_file() and not target.exists()


def test_exports_that_fail_or_end_together_take_nothing_away(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.library.add_examples()
    entry = context.library.entries()[0]
    folder = context.workspace.folder("cache", "exports")
    folder.mkdir()
    (folder / "cleared away meanwhile").symlink_to(folder / "nowhere")
    kept, _ = export(context, adapter=entry.id, picture=False)

    def failing(*given: Any, **settings: Any) -> Any:
        raise AdapterError("a check failed")

    monkeypatch.setattr(work, "KEPT", 1)
    monkeypatch.setattr(work, "write", failing)
    with pytest.raises(AdapterError, match="a check failed"):
        export(context, adapter=entry.id, picture=False)
    assert kept.is_file() and [path.name for path in folder.iterdir() if path.is_dir()] == [kept.parent.name]
