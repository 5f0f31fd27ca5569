"""`pigment gallery …`, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio.cli import main
from studio.gallery import Gallery
from studio.workspace import Workspace
from tests.studio.test_gallery import drawn


def test_the_gallery_by_command(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery, where = Gallery(workspace), ["--workspace", str(workspace.root)]
    ids = [gallery.add(drawn(prompt, 7)) for prompt in ("a fox", "a house")]

    def run(*words: str) -> tuple[int, str]:
        code = main(["gallery", *words, *where])
        said = capsys.readouterr()
        return code, said.out + said.err

    assert ids[0] in run("list", "fox")[1] and ids[1] not in run("list", "fox")[1]
    assert json.loads(run("list", "--json", "--size", "1")[1])["pages"] == 2
    assert "no pictures" in run("list", "nonesuch")[1]
    code, said = run("show", ids[0][-6:])
    assert code == 0 and "Prompt: a fox" in said and "Steps: 20" in said
    assert json.loads(run("show", ids[0], "--json")[1])["settings"]["generation"]["seed"] == 7
    assert run("trash", *ids)[1].startswith("2 of 2")
    assert run("restore", ids[0])[0] == 0 and gallery.search().total == 1
    code, said = run("empty")
    assert code != 0 and "--yes" in said and gallery.search(trashed=True).total == 1
    assert "1 pictures removed" in run("empty", "--yes")[1] and gallery.search(trashed=True).total == 0
    (out := tmp_path / "out").mkdir()
    code, said = run("export", ids[0], "--to", str(out))
    assert code == 0 and Path(said.strip()).read_bytes() == gallery.get(ids[0]).path.read_bytes()
    for wrong, word in (
        (("export", ids[0], "--to", str(out)), "there already"),
        (("export", ids[0], "--to", str(out / "x")), "no folder"),
        (("show", "zzzz"), "no picture"),
        (("show", ids[0][-2:]), "no picture"),
        (("list", "--page", "0"), "from 1"),
    ):
        code, said = run(*wrong)
        assert code != 0 and word in said and len(said.splitlines()) == 1, said
