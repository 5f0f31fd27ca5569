"""`pigment library …`: what the page's library does, for people and as JSON; refusals are one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.formats import read_adapter, write_adapter
from studio.cli import main

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: with --json what it printed, else its exit code and what it said."""

    def run(*arguments: str) -> Any:
        code = main([*arguments])
        said = capsys.readouterr()
        if "--json" in arguments:
            assert code == 0, said.err
            return json.loads(said.out)
        return code, said.out + said.err

    return run


def names(found: dict[str, Any]) -> list[str]:
    return [one["name"] for one in found["adapters"]]


def test_a_library_from_import_to_the_trash(
    run: Run, make_adapter: Callable[..., Path], pictures: list[Path], tmp_path: Path
) -> None:
    make_adapter(tmp_path / "disc.safetensors", name="disc")
    (tmp_path / "disc.preview.png").write_bytes(pictures[0].read_bytes())
    assert "imported" in run("import", "disc.safetensors", "--name", "Zib")[1]
    assert run("library", "show", "zib", "--json")["cover"].startswith("cover/")
    run("library", "tag", "zib", "ink", "mine", "--json")
    assert run("library", "tag", "zib", "--remove", "INK", "--json")["tags"] == ["mine"]
    run("library", "note", "zib", "for winter", "--json")
    assert run("library", "edit", "zib", "--set", "triggers=zuv", "--json")["triggers"] == ["zuv"]
    assert run("library", "rename", "zib", "Zab", "--json")["name"] == "Zab"
    assert run("library", "cover", "zab", str(pictures[1]), "--json")["cover"].startswith("cover/")
    assert names(run("library", "list", "winter", "ZUV", "--tag", "mine", "--json")) == ["Zab"]
    assert run("library", "list", "--size", "2", "--page", "2", "--sort", "name", "--json")["page"] == 2
    assert run("library", "check")[0] == 0
    assert run("library", "trash", "zab")[0] == 0
    assert names(run("library", "list", "--trashed", "--json")) == ["Zab"]
    assert "is back" in run("library", "restore", "zab")[1]
    run("library", "trash", "zab")
    code, said = run("library", "empty")
    assert code == 2 and "--yes" in said
    assert run("library", "empty", "--yes", "--json") == {"removed": 1}
    code, said = run("library", "show", "zab")
    assert code == 2 and said.startswith("error: no adapter 'zab'") and said.count("\n") == 1


def test_a_changed_file_is_found(run: Run, make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    run("import", str(make_adapter(tmp_path / "disc.safetensors")))
    path = Path(run("library", "show", "disc", "--json")["path"])
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    code, said = run("library", "check")
    assert code == 1 and "has changed" in said


def test_a_peft_folder_comes_in(run: Run, make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    adapter = read_adapter(make_adapter(tmp_path / "disc.safetensors", name="disc"))
    write_adapter(adapter, tmp_path / "peft", "peft")
    assert "disc: imported" in run("import", "peft")[1]
    code, said = run("import", "peft/unet/adapter_config.json")
    assert code == 2 and "not a .safetensors file" in said


def test_the_base_in_use_is_remembered(run: Run, tiny_folder: Path) -> None:
    run("base", "add", str(tiny_folder), "--name", "tiny", "--json")
    assert run("base", "use", "tiny", "--json")["name"] == "tiny"
    assert run("base", "use", "--json")["ref"] == str(tiny_folder.resolve())
    code, said = run("base", "use", "tinny")
    assert code == 2 and "did you mean 'tiny'" in said
