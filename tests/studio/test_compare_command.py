"""`pigment compare`: folders, jobs and adapters by name; the table, the JSON and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio import attached
from studio.cli import main
from studio.jobs import Jobs
from studio.library import Library
from studio.workspace import Workspace
from tests.made_runs import made_run

Run = Callable[..., Any]


@pytest.fixture
def run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A workspace, and a folder to write into."""
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(workspace.root))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("run")
def test_a_job_an_adapter_and_a_folder(
    workspace: Workspace,
    make_adapter: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = Jobs(workspace).submit("train", "Old friend", {})
    made_run(Jobs(workspace).folder(job))
    entry, _ = Library(workspace).add(make_adapter(tmp_path / "disc.safetensors"), name="Disc")
    attached.attach(workspace, entry.id, made_run(tmp_path / "gone"))
    folder = made_run(tmp_path / "run", "Zub")
    capsys.readouterr()
    assert main(["compare", "old friend", "disc", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["runs"] == ["Old friend", "Disc", "Zub"]
    assert {row["title"] for row in said["rows"]} >= {"Likeness", "Copies"}
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "Old friend" in page and "Disc" in page
    assert main(["compare", job.id[:-1], str(folder), "--out", "two.html"]) == 0
    told = capsys.readouterr()
    assert "Likeness" in told.out and "two.html" in told.err and (tmp_path / "two.html").is_file()


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(("arguments", "said"), [
    (["{run}"], "got 1 run to compare, expected 2 to 6"),
    (["{run}", "nobody"], "no run 'nobody': no such folder, and no job or adapter"),
    (["{run}", "waits"], "has no evidence.json"),
    (["{run}", "disc"], "nothing is known of how 'Disc' was taught"),
    (["{run}", "{run}", "--out", "page.pdf"], "is no page; give a file that ends in .html"),
    (["{run}", "{run}", "--out", "no/such/page.html"], "can't be written"),
])  # fmt: skip
def test_what_cant_be_compared_is_one_line(
    workspace: Workspace, make_adapter: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str,
) -> None:  # fmt: skip
    Jobs(workspace).submit("train", "waits", {})
    Jobs(workspace).folder(Jobs(workspace).find()[0]).mkdir()
    Library(workspace).add(make_adapter(tmp_path / "disc.safetensors"), name="Disc")
    folder = made_run(tmp_path / "run")
    assert main(["compare", *(one.format(run=folder) for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
