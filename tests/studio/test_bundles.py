"""A run's bundle as a zip: by the command, and from the server by id only."""

from __future__ import annotations

import io
import json
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio.cli import main
from studio.context import Context
from studio.routes import bundles
from studio.work.job import Job
from tests.trainers.bundled import made_up
from trainers.config import preset_config

TITLE = "<b>Žüb & “co”\r\n"
PICTURE, ADAPTER = b"a picture", b"numbers"


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()


@pytest.fixture
def run(context: Context, tmp_path: Path) -> Job:
    """A training that has left a bundle of one picture, which lies in the workspace."""
    pictures = context.workspace.folder("runs", "pictures")
    pictures.mkdir(parents=True)
    (pictures / "a.png").write_bytes(PICTURE)
    config = preset_config(
        "sketch", "subject", instance_images=pictures, trigger="zuv", instance_prompt="a zuv disc",
        output=tmp_path / "where it was", cache=tmp_path / "cache",
    )  # fmt: skip
    job = context.jobs.submit("train", TITLE, json.loads(config.as_json()))
    folder = context.jobs.folder(job)
    (folder / "bundle").mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(ADAPTER)
    bundle = made_up(
        made={"sha256": _hash(ADAPTER), "tensors_sha256": "0" * 64, "bytes": 7, "step": 1},
        data={
            "sha256": "0" * 64,
            "pictures": [{"name": "a.png", "sha256": _hash(PICTURE), "caption": "0" * 64}],
        },
    )
    (folder / "bundle" / "bundle.toml").write_text(bundle.as_toml())
    return job


@pytest.fixture
def client(context: Context) -> TestClient:
    """The route alone."""
    app = FastAPI()
    bundles.add(app, context)
    return TestClient(app)


def test_a_bundle_is_sent_as_a_zip_without_pictures(client: TestClient, run: Job) -> None:
    answer = client.get(f"/files/bundle/{run.id}")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
    named = answer.headers["content-disposition"]
    assert named.isascii() and "\n" not in named and named.startswith("attachment;") and "<" not in named
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["bundle.toml", "adapter.safetensors"] and archive.testzip() is None
        assert archive.read("adapter.safetensors") == ADAPTER


@pytest.mark.parametrize("asked", ["{id}x", "..%2f{id}", "{id}%2f..", "{ID}", ""])
def test_nothing_else_is_sent(client: TestClient, run: Job, asked: str) -> None:
    assert client.get(f"/files/bundle/{asked.format(id=run.id, ID=run.id.upper() + 'A')}").status_code == 404


def test_a_run_whose_adapter_is_another_has_none(client: TestClient, run: Job, context: Context) -> None:
    (context.jobs.folder(run) / "adapter.safetensors").write_bytes(b"of a later run")
    assert client.get(f"/files/bundle/{run.id}").status_code == 404


def test_the_command_writes_a_zip_by_id_title_or_folder(
    run: Job,
    context: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ["--workspace", str(context.workspace.root)]
    assert main(["bundle", run.id, *where, "--with-pictures", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == ["bundle.toml", "adapter.safetensors", "pictures/a.png"]
    assert told["sha256"] == _hash((tmp_path / "zuv bundle.zip").read_bytes())
    assert main(["bundle", str(context.jobs.folder(run)), "--out", "b.zip"]) == 0
    assert "without its 1 picture;" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert archive.namelist() == ["bundle.toml", "adapter.safetensors"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["nobody"], "no run 'nobody': no such folder, and no job or adapter of that name"),
        (["."], "can't be read"),
        (["{id}", "--out", "it.tar"], "expected a name ending in .zip"),
        (["{id}", "--out", "none/it.zip"], "isn't there; make it first"),
    ],
)
def test_what_is_wrong_is_one_line(
    run: Job, context: Context, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, said: list[str], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    where = ["--workspace", str(context.workspace.root)]
    assert main(["bundle", *(one.format(id=run.id) for one in said), *where]) == 2
    shown = capsys.readouterr().err
    assert words in shown and shown.count("\n") == 1


def test_pictures_that_were_changed_are_not_put_in(
    run: Job, context: Context, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (context.workspace.folder("runs", "pictures") / "a.png").write_bytes(b"another")
    said = ["bundle", run.id, "--workspace", str(context.workspace.root), "--with-pictures"]
    assert main([*said, "--out", str(tmp_path / "b.zip")]) == 2
    assert "'a.png' isn't what was learned from" in capsys.readouterr().err
    assert not (tmp_path / "b.zip").exists()
