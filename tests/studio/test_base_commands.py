"""`pigment base …`, and what `--base` and the options of loading take in every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.bases.source import open_source
from pipelines.errors import BaseError
from studio.bases import BaseOptions
from studio.cli import main
from tests.pipelines.bases.hub_server import Hub, serving


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and a workspace of its own for the commands."""
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(tmp_path / "commands"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON that a command prints."""
    capsys.readouterr()
    code = main([*(str(one) for one in arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def refused(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends."""
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    return captured.err.strip()


def test_commands(tiny_folder: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added = run("base", "add", tiny_file, "--name", "mine", capsys=capsys)
    assert added["new"] and added["bytes"] == tiny_file.stat().st_size
    assert not run("base", "add", tiny_file, capsys=capsys)["new"]
    (listed,) = run("base", "list", capsys=capsys)["bases"]
    assert listed["name"] == "mine" and listed["ref"] == str(tiny_file) and not listed["missing"]
    info = run("base", "info", "mine", capsys=capsys)
    source = open_source(tiny_folder)
    assert info["family"] == "sd15" and info["prediction_type"] == "epsilon" and not info["inpainting"]
    assert info["parameters"] == source.parameters and info["resolution"] == 16
    assert set(info["precisions"].values()) == {"fp32"} and info["vae"] == "its own"
    assert info["short_hash"] == listed["sha256"][:10]
    assert main(["base", "info", "mine"]) == 0
    text = capsys.readouterr().out
    assert "Stable Diffusion 1.x, 16 px" in text and f"hash in A1111: {info['short_hash']}" in text
    assert run("base", "info", tiny_folder, "--no-hash", capsys=capsys)["sha256"] == ""
    assert run("base", "remove", "mine", capsys=capsys)["name"] == "mine"
    assert run("base", "list", capsys=capsys)["bases"] == [] and tiny_file.is_file()


def test_info_tells_another_vae(
    tiny_folder: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("base", "info", tiny_folder, "--vae", tiny_file, capsys=capsys)["vae"] == str(tiny_file)


@pytest.mark.parametrize(
    ("out", "more", "layout"),
    [
        ("x.safetensors", [], "file"),
        ("x", [], "folder"),
        ("x", ["--layout", "folder", "--dtype", "fp16"], "folder"),
    ],
)
def test_fold(
    tiny_folder: Path, make_adapter: Callable[..., Path], here: Path, capsys: pytest.CaptureFixture[str],
    out: str, more: list[str], layout: str,
) -> None:  # fmt: skip
    import torch

    from pipelines.base import load_base
    from pipelines.formats import read_adapter
    from pipelines.mixer import Mixer

    file = make_adapter(here / "zib.safetensors")
    report = run(
        "base", "fold", tiny_folder, "--adapter", f"{file}:0.5/0.25", "--out", out, *more, capsys=capsys
    )
    assert report["layout"] == layout and report["equal"] == report["tensors"] and report["changed"] > 0
    assert report["adapters"] == {"zib": [0.5, 0.25]}
    part = run("base", "fold", tiny_folder, "--adapter", f"{file}:0.5/0.25", "--part",
               "--out", f"part-{out}", *more, capsys=capsys)  # fmt: skip
    assert part["changed"] == report["changed"]
    assert report["dtype"] == ("fp16" if more else "as stored")
    written, base = (load_base(path, device="cpu") for path in (here / out, tiny_folder))
    with Mixer(base) as mixer:
        mixer.add("zib", read_adapter(file))
        mixer.set({"zib": (0.5, 0.25)})
        for part in ("unet", "text_encoder"):
            found = written.component(part).state_dict()
            for key, value in base.component(part).state_dict().items():
                assert torch.allclose(found[key], value, atol=1e-3 if more else 1e-6), key


def test_bad_input_of_base_commands(
    tiny_folder: Path, make_adapter: Callable[..., Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "model.ckpt").write_bytes(b"\x80\x04")
    (here / "rubbish.safetensors").write_bytes(b"\xff" * 40)
    (here / "empty").mkdir()
    adapter = make_adapter(here / "zib.safetensors")
    fold = ("base", "fold", tiny_folder, "--adapter", str(adapter))
    before = sorted(here.iterdir())
    assert "never opened" in refused("base", "add", "model.ckpt", capsys=capsys)
    assert "has a header of" in refused("base", "info", "rubbish.safetensors", capsys=capsys)
    assert "zib.safetensors" in refused("base", "add", "zib.safetensors", capsys=capsys)
    assert "without model_index.json" in refused("base", "info", "empty", capsys=capsys)
    assert "no such folder" in refused("base", "add", "nobody", capsys=capsys)
    assert "HF_HUB_OFFLINE" in refused("base", "add", "org/name", capsys=capsys)
    assert "no base 'nobody' in the list" in refused("base", "remove", "nobody", capsys=capsys)
    assert "is there already" in refused(*fold, "--out", "empty", capsys=capsys)
    assert "looks like a file" in refused(
        *fold, "--out", "x.safetensors", "--layout", "folder", capsys=capsys
    )
    assert "expected a name ending" in refused(*fold, "--out", "x", "--layout", "file", capsys=capsys)
    assert "isn't there" in refused(*fold, "--out", "no/x.safetensors", capsys=capsys)
    late = ("base", "fold", tiny_folder, "--adapter", f"{adapter}:1@0.2-0.5", "--out", "x.safetensors")
    assert "changes with the steps" in refused(*late, capsys=capsys)
    assert "see pigment base" in refused("base", "fold", tiny_folder, capsys=capsys)
    assert sorted(here.iterdir()) == before


def test_every_command_takes_every_kind_of_base(
    tiny_folder: Path, tiny_file: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("base", "add", tiny_file, "--name", "mine", capsys=capsys)
    steps = ("--steps", "1", "--seed", "3")
    pictures = []
    for number, base in enumerate((str(tiny_folder), str(tiny_file), "mine")):
        run("generate", "a zib", "--base", base, *steps, "--out", f"{number}.png", capsys=capsys)
        with Image.open(here / f"{number}.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    assert max(abs(pictures[0] - other).max() for other in pictures[1:]) <= 1
    message = refused("generate", "a zib", "--base", "mne", capsys=capsys)
    assert "no base 'mne'" in message and "did you mean 'mine'" in message


def test_options_of_loading_reach_the_base(
    tiny_folder: Path,
    tiny_file: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def load(self: BaseOptions, ref: str, on_progress: Any = None) -> Any:
        seen.update(vars(self), ref=ref)
        raise BaseError("seen")

    monkeypatch.setattr(BaseOptions, "load", load)
    flags = ["--vae", str(tiny_file), "--device", "cpu", "--precision", "bf16", "--attention", "sdpa",
             "--no-channels-last", "--vae-tiling", "--offload", "parts"]  # fmt: skip
    refused("generate", "x", "--base", tiny_folder, *flags, capsys=capsys)
    assert seen["ref"] == str(tiny_folder) and seen["vae"] == str(tiny_file)
    assert seen["device"] == "cpu" and seen["precision"] == "bf16"
    wanted = {"attention": "sdpa", "channels_last": False, "vae_tiling": True, "offload": "parts"}
    assert seen["placement"] == wanted
    options = BaseOptions(vae="v", placement=wanted)
    assert BaseOptions.from_text(options.as_text()) == options


def test_there_is_a_flag_for_every_field_of_placement(capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.placement import Placement

    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = capsys.readouterr().out
    for name in Placement.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--attention", "magic"], "--attention: unknown attention 'magic'"),
        (["--quantise", "int3"], "--quantise: unknown quantisation 'int3'"),
        (["--vae", "nowhere.safetensors"], "--vae 'nowhere.safetensors': no such file"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--offload", "all"], "--offload"),
    ],
)
def test_wrong_options_are_one_line(
    flags: list[str], expected: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused("generate", "x", "--base", tiny_folder, *flags, capsys=capsys)


def test_idle_options_are_refused(
    make_adapter: Callable[..., Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make_adapter(here / "zib.safetensors")
    message = refused("export", file, "--no-picture", "--vae-tiling", capsys=capsys)
    assert "--vae-tiling has no effect with --no-picture" in message


def test_a_hub_id_is_fetched_when_it_is_added(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Hub(tiny_folder)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        capsys.readouterr()
        assert main(["base", "add", "org/tiny", "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["ref"] == "org/tiny" and json.loads(captured.out)["name"] == "tiny"
        told = [int(line.split(": ")[1].split(" %")[0]) for line in captured.err.splitlines()]
        assert told == sorted(set(told)) and len(told) > 2 and told[-1] == 100
    found = run("base", "info", "tiny", capsys=capsys)  # the hub is gone: what is here is enough
    assert found["sha256"] == open_source(tiny_folder).sha256


def test_the_demo_takes_the_same_bases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--base", "nobody"]) == 2
    assert "no base 'nobody'" in capsys.readouterr().err
