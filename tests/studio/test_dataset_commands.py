"""`pigment dataset …`, as people call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from studio.cli import main

Pigment = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pigment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Pigment:
    """Call a part of `pigment dataset`; returns the exit code, what was printed, and what went wrong."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["dataset", *words, "--workspace", str(tmp_path / "workspace")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_folder_becomes_a_set_and_a_folder_again(pigment: Pigment, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "masks").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    Image.new("L", (40, 30), 255).save(folder / "masks" / "b.png")
    (folder / "a.txt").write_text("a red thing")
    (folder / "bad.png").write_bytes(b"no")

    code, said, _ = pigment("add", str(folder), "--name", "My set")
    assert code == 0 and "My set: 2 pictures" in said and "refused: bad.png: isn't a picture" in said
    assert "My set: 2 pictures" in pigment("list")[1]
    assert pigment("caption", "my set", "2", "a blue thing")[0] == 0
    shown = json.loads(pigment("show", "My set", "--json")[1])
    assert [one["caption"] for one in shown["items"]] == ["a red thing", "a blue thing"]
    assert [bool(one["mask"]) for one in shown["items"]] == [False, True]

    code, said, _ = pigment("check", "My set", "--preset", "sketch", "--trigger", "zib")
    assert code == 0 and "learned are 2 as" in said and "preset sketch takes about" in said
    assert "a.png: its caption" in said and "000.png" not in said, "pictures go by their own names"

    assert pigment("put", "My set", str(tmp_path / "out"))[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000.png", "000.txt", "001.mask.png", "001.png", "001.txt"]
    assert "is there and not empty" in pigment("put", "My set", str(tmp_path / "out"))[2]
    assert "isn't there; make it first" in pigment("put", "My set", str(tmp_path / "x" / "y"))[2]

    assert pigment("remove", "My set", "a.png")[0] == 0
    assert "My set: 1 picture (" in pigment("show", "My set")[1]
    assert pigment("remove", "My set")[0] == 0 and "no sets of pictures yet" in pigment("list")[1]


def test_what_cant_be_is_one_line(pigment: Pigment, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    for words, line in (
        (("show", "nope"), "no set of pictures 'nope'; there are none yet"),
        (("add",), "nothing to add"),
        (("add", str(tmp_path / "gone.png")), "no file or folder"),
        (("add", str(tmp_path / "bad.png"), "--to", "a", "--name", "b"), "--name is for a new set"),
        (("add", "--example", "mascott"), "did you mean 'mascot'"),
        (("add", "--example", "mascot", "--to", "x"), "--example makes a new set"),
    ):
        code, _, wrong = pigment(*words)
        assert code == 2 and line in wrong and wrong.count("\n") == 1, wrong
    code, said, _ = pigment("add", str(tmp_path / "bad.png"))
    assert code == 2 and "refused: bad.png" in said
    assert "no sets of pictures yet" in pigment("list")[1], "nothing is left of a set without pictures"


def test_sets_of_one_name_are_told_apart_by_id(pigment: Pigment, tmp_path: Path) -> None:
    from studio.datasets import Datasets
    from studio.workspace import Workspace

    datasets = Datasets(Workspace.open(tmp_path / "workspace", own=False))
    first, _ = datasets.new("twin"), datasets.new("twin")
    assert "2 sets are named 'twin'; choose one by its id" in pigment("show", "twin")[2]
    assert pigment("show", first.id)[0] == 0
    assert "the set has no pictures" in pigment("check", first.id)[2]
    assert "no picture '7' in the set" in pigment("caption", first.id, "7", "x")[2]
