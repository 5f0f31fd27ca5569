"""`pigment`: wrong input ends with code 2 and one line, and leaves nothing half written."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from studio.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "workspace"


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


WRONG = {
    "no command": [],
    "unknown command": ["paint"],
    "unknown option": ["generate", "a cat", "--speed", "9"],
    "unknown sampler": ["generate", "a cat", "--sampler", "magic"],
    "empty prompt": ["generate", " "],
    "weight out of range": ["generate", "a cat", "--adapter", "zib:9"],
    "weight no number": ["generate", "a cat", "--adapter", "zib:much"],
    "unknown adapter": ["generate", "a cat", "--adapter", "nobody"],
    "missing adapter file": ["generate", "a cat", "--adapter", "./nobody.safetensors:0.5"],
    "steps out of range": ["generate", "a cat", "--steps", "0"],
    "not a PNG": ["generate", "a cat", "--out", "cat.jpg"],
    "no folder to write to": ["generate", "a cat", "--out", "nowhere/cat.png"],
    "missing base": ["generate", "a cat", "--base", "nobase"],
    "export of nothing": ["export", "nobody"],
    "unknown format": ["export", "x", "--format", "ckpt"],
    "import of nothing": ["import", "nobody.safetensors"],
    "import of a pickle": ["import", "model.ckpt"],
    "import of rubbish": ["import", "rubbish.safetensors"],
    "inspect of rubbish": ["inspect", "rubbish.safetensors"],
    "missing training config": ["train", "nowhere.toml"],
    "page on an open address": ["studio", "--host", "0.0.0.0"],
    "page on a bad port": ["studio", "--port", "99999"],
    "page on a missing base": ["studio", "--base", "nobase"],
    "workspace is a file": ["inspect", "zib", "--workspace", "model.ckpt"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=list(WRONG))
def test_wrong_input_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("model.ckpt").write_bytes(b"\x80\x04pickle")
    Path("rubbish.safetensors").write_bytes(b"\xff" * 40)
    before = files(Path())
    try:
        code = main(arguments)
    except SystemExit as end:  # the trainers' own parser
        code = int(end.code or 0)
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    message = captured.err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    assert "Traceback" not in message
    assert files(Path()) == before


def test_a_taken_port_is_refused(capsys: pytest.CaptureFixture[str], own_workspace: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["studio", "--port", str(port)]) == 2
    message = capsys.readouterr().err.strip()
    assert str(port) in message
    assert "--port" in message
    assert "\n" not in message
    assert not own_workspace.exists(), "nothing is made before the port is ours"


def test_import_inspect_export(
    make_adapter: Callable[..., Path], tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_adapter(Path("disc.safetensors").absolute(), name="Disc")
    assert main(["import", str(source), "--name", "My disc"]) == 0
    assert main(["import", str(source)]) == 0
    assert "already" in capsys.readouterr().out
    assert main(["inspect", "My disc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "sd15"
    assert (
        main(
            [
                "export",
                "My disc",
                "--format",
                "diffusers",
                "--out",
                "out.safetensors",
                "--base",
                str(tiny_folder),
            ]
        )
        == 0
    )
    assert "keys: " in capsys.readouterr().out
    assert main(["inspect", "out.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "diffusers"
    assert main(["export", str(source), "--out", str(source)]) == 2


def test_generate_writes_numbered_pictures(
    make_adapter: Callable[..., Path], tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.generate import read_settings

    source = make_adapter(Path("disc.safetensors").absolute(), name="Disc")
    arguments = [
        "generate",
        "a disc",
        "--base",
        str(tiny_folder),
        "--steps",
        "2",
        "--count",
        "2",
        "--seed",
        "5",
    ]
    assert main([*arguments, "--adapter", f"{source}:0.5", "--out", "disc.png"]) == 0
    assert capsys.readouterr().out.split() == ["disc-01.png", "disc-02.png"]
    settings = read_settings("disc-02.png")["generation"]
    assert settings["seed"] == 6
    assert settings["adapters"][0]["weight"] == 0.5


def test_importing_the_studio_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, studio, studio.cli, studio.jobs, studio.library, studio.teaching, studio.mixing; "
        "heavy = {'torch', 'diffusers', 'transformers', 'gradio'} & set(sys.modules); print(sorted(heavy))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_report_can_say_which_pigment_it_is_of(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"Pigment {version('pigment-studio')}\n"
