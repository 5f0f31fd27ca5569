"""What is said of a base against what it says of itself: flags, kept by the list, in training too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.bases.record import RECORD
from pipelines.errors import BaseError
from studio.bases import BaseOptions
from studio.cli import main
from tests.studio.test_base_commands import here as here
from tests.studio.test_base_commands import refused, run
from tests.tiny import save_tiny_pipeline

V = ("--prediction-type", "v_prediction")


@pytest.fixture
def bare_file(tiny_file: Path, here: Path) -> Path:
    """A tiny base in one file that carries no configs."""
    from safetensors.torch import load_file, save_file

    from pipelines.formats.container import read_header

    metadata = read_header(tiny_file, BaseError).metadata
    assert RECORD in metadata
    save_file(load_file(tiny_file), here / "bare.safetensors", {"format": "pt"})
    return here / "bare.safetensors"


def seen_by(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the next base is loaded by; it isn't loaded."""
    seen: dict[str, Any] = {}

    def load(self: BaseOptions, ref: str, on_progress: Any = None) -> Any:
        seen.update(vars(self), ref=ref)
        raise BaseError("seen")

    monkeypatch.setattr(BaseOptions, "load", load)
    return seen


def test_the_list_keeps_what_was_said(
    tiny_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("base", "add", tiny_file, "--name", "mine", capsys=capsys)["prediction_type"] == "epsilon"
    added = run("base", "add", tiny_file, "--name", "v", *V, capsys=capsys)
    assert added["new"] and added["prediction_type"] == "v_prediction"
    assert not run("base", "add", tiny_file, *V, capsys=capsys)["new"]
    info = run("base", "info", "v", capsys=capsys)
    assert info["prediction_type"] == "v_prediction" and "was said" in " ".join(info["notes"])
    assert run("base", "info", "mine", capsys=capsys)["notes"] == []
    assert run("base", "info", "mine", *V, capsys=capsys)["prediction_type"] == "v_prediction"
    seen = seen_by(monkeypatch)
    refused("generate", "x", "--base", "v", capsys=capsys)
    assert (seen["ref"], seen["prediction_type"]) == (str(tiny_file), "v_prediction")
    refused("generate", "x", "--base", "v", "--prediction-type", "epsilon", capsys=capsys)
    assert seen["prediction_type"] == "epsilon"
    refused("generate", "x", "--base", "mine", capsys=capsys)
    assert seen["prediction_type"] is None


def test_what_was_said_is_written_and_drawn_with(
    tiny_file: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("base", "fold", tiny_file, *V, "--out", "v.safetensors", capsys=capsys)
    assert run("base", "info", "v.safetensors", capsys=capsys)["prediction_type"] == "v_prediction"
    for name, flags in (("e", ()), ("said", V)):
        assert (
            main(["generate", "x", "--steps", "2", "--base", str(tiny_file), "--out", f"{name}.png", *flags])
            == 0
        )
    assert main(["generate", "x", "--steps", "2", "--base", "v.safetensors", "--out", "v.png"]) == 0
    from PIL import Image

    e, said, v = (Image.open(here / f"{name}.png").tobytes() for name in ("e", "said", "v"))
    assert said == v != e


def test_a_file_of_other_sizes_is_read_by_configs_beside_it(
    bare_file: Path, tiny_folder: Path, make_adapter: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "give the folder of configs" in refused("base", "info", bare_file, capsys=capsys)
    given = ("--configs", tiny_folder)
    run("base", "add", bare_file, *given, "--name", "bare", capsys=capsys)
    info = run("base", "info", "bare", capsys=capsys)
    assert info["resolution"] == 16 and str(tiny_folder) in " ".join(info["notes"])
    assert main(["generate", "x", "--steps", "1", "--base", "bare", "--out", "x.png"]) == 0
    other = save_tiny_pipeline(tmp_path / "other", family="sdxl")
    assert "is of a StableDiffusionXLPipeline" in refused(
        "base", "info", bare_file, "--configs", other, capsys=capsys
    )
    for wrong in (tmp_path / "none", bare_file, tmp_path):
        assert "configs" in refused("base", "info", bare_file, "--configs", wrong, capsys=capsys)
    assert "leave the config folder out" in refused("base", "info", tiny_folder, *given, capsys=capsys)
    adapter = make_adapter(tmp_path / "zib.safetensors")
    assert "--configs has no effect" in refused("convert", adapter, *given, capsys=capsys)


def test_what_lacks_weights_isnt_listed(
    tiny_file: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    from pipelines.formats.container import read_header

    tensors = {key: value for key, value in load_file(tiny_file).items() if "output_blocks.1" not in key}
    save_file(tensors, here / "half.safetensors", dict(read_header(tiny_file, BaseError).metadata))
    assert "unet lacks" in refused("base", "add", here / "half.safetensors", capsys=capsys)
    assert "unet lacks" in refused("base", "info", here / "half.safetensors", capsys=capsys)
    assert run("base", "list", capsys=capsys)["bases"] == []
    assert "embedded" in refused("base", "remove", "pocket", capsys=capsys)
    for out in ("", " ", ".safetensors"):
        assert "is no name" in refused("base", "fold", tiny_file, "--out", out, capsys=capsys)
    long = ("base", "fold", tiny_file, "--out", "x.safetensors", "--title")
    assert "at most 200" in refused(*long, "a" * 201, capsys=capsys)
    run(*long, "a\nb", capsys=capsys)
    assert run("base", "info", "x.safetensors", capsys=capsys)["title"] == "a b"


def _lesson(folder: Path, base: str, **run: str) -> Path:
    (folder / "p").mkdir(exist_ok=True)
    settings = json.dumps({"output": "out", "base": base, **run})[1:-1].replace('": ', '" = ').split(", ")
    data = ['instance_images = "p"', 'instance_prompt = "a zib"', 'trigger = "zib"']
    text = "\n".join(["[data]", *data, "[run]", *settings]) + "\n"
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


def test_training_knows_the_names_of_the_list(
    tiny_file: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainers.__main__

    seen: list[Any] = []
    monkeypatch.setattr(trainers.__main__, "run", lambda config, **_: seen.append(config.run))
    run("base", "add", tiny_file, "--name", "mine", *V, capsys=capsys)
    assert main(["train", str(_lesson(here, "mine"))]) == 0
    assert (seen[0].base, seen[0].prediction_type) == (str(tiny_file), "v_prediction")
    assert main(["train", str(_lesson(here, "pocket"))]) == 0
    assert (seen[1].base, seen[1].prediction_type) == ("pocket", None)
    assert main(["train", str(_lesson(here, "mine", prediction_type="epsilon"))]) == 0
    assert (seen[2].base, seen[2].prediction_type) == (str(tiny_file), "epsilon")
    assert "did you mean 'mine'" in refused("train", _lesson(here, "mne"), capsys=capsys)


def test_training_loads_the_base_as_it_was_said(
    tiny_file: Path, pictures: list[Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers import loop
    from trainers.config import load_config

    given: dict[str, Any] = {}

    def load(ref: str, **options: Any) -> Any:
        given.update(options)
        raise BaseError("seen")

    monkeypatch.setattr(loop, "load_base", load)
    toml = _lesson(here, str(tiny_file), configs="nowhere", prediction_type="v_prediction")
    toml.write_text(toml.read_text().replace('"p"', json.dumps(str(pictures[0].parent))))
    with pytest.raises(BaseError, match="seen"):
        next(loop.train(load_config(toml)))
    assert (given["config"], given["prediction_type"]) == ("nowhere", "v_prediction")


def test_an_inpainting_base_isnt_taught(
    pictures: list[Path], tmp_path: Path, here: Path, capsys: Any
) -> None:
    folder = save_tiny_pipeline(tmp_path / "inpainting", unet={"in_channels": 9})
    toml = _lesson(here, str(folder))
    toml.write_text(toml.read_text().replace('"p"', json.dumps(str(pictures[0].parent))))
    assert "is an inpainting model, which isn't taught here" in refused("train", toml, capsys=capsys)
    assert not (here / "out").exists()
