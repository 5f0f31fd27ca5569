"""`pigment generate|grid|strip`: settings from flags, files and pictures; pictures that are what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.generate import read_settings
from pipelines.parameters import restore
from studio.cli import main

Run = Callable[..., Any]
FEW = ("--steps", "2")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> Run:
    """Run a drawing command on the tiny base with --json and return what it printed."""

    def run(*arguments: str, base: str | None = str(tiny_folder)) -> Any:
        code = main([*arguments, *(("--base", base) if base else ()), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return run


@pytest.fixture(scope="session")
def imported(make_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two adapters of the tiny base, "fox" and "ink". Don't write into it."""
    folder = tmp_path_factory.mktemp("imported")
    for seed, name in enumerate(("fox", "ink")):
        file = make_adapter(folder / f"{name}-file.safetensors", seed=seed, name=name)
        assert main(["import", str(file), "--name", name, "--workspace", str(folder / "workspace")]) == 0
    return folder / "workspace"


@pytest.fixture
def library(imported: Path, tmp_path: Path) -> None:
    """Two adapters of the tiny base, "fox" and "ink", in the library."""
    shutil.copytree(imported, tmp_path / "workspace")


def pixels(file: str | Path) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


def test_short_flags_are_the_long_ones(run: Run) -> None:
    run(
        "generate",
        "a fox",
        "--steps",
        "2",
        "--guidance",
        "2.5",
        "--negative",
        "x",
        "--count",
        "1",
        "--out",
        "a.png",
    )
    run("generate", "a fox", "--num-inference-steps", "2", "--guidance-scale", "2.5", "--negative-prompt",
        "x", "--num-images", "1", "--out", "b.png")  # fmt: skip
    assert read_settings("a.png") == read_settings("b.png")


def test_samplers_have_every_name(run: Run) -> None:
    for name in ("dpmpp_2m_karras", "DPM++ 2M Karras", "dpmpp_2m karras"):
        data = run("generate", "a fox", *FEW, "--sampler", name)
        assert data["settings"][0]["generation"]["sampler"] == "dpmpp_2m_karras"


def test_flags_win_over_the_file_and_the_file_over_the_picture(run: Run) -> None:
    run("generate", "first", *FEW, "--seed", "4", "--guidance", "2", "--negative", "n", "--out", "first.png")
    Path("s.toml").write_text('seed = 5\nguidance = 3.5\nprompt = "second"\n')
    data = run("generate", "--from", "first.png", "--config", "s.toml", "--seed", "6", "--out", "b.png")
    drawn = data["settings"][0]["generation"]
    assert (drawn["prompt"], drawn["seed"], drawn["guidance_scale"]) == ("second", 6, 3.5)
    assert (drawn["negative_prompt"], drawn["num_inference_steps"]) == ("n", 2)


@pytest.mark.usefixtures("library")
def test_a_picture_is_drawn_again_bit_for_bit_from_itself(run: Run, tiny_folder: Path) -> None:
    for number, more in enumerate((
        ("a {fox|cat|dog} (in:1.2) snow", "--sampler", "euler_a", "--width", "24"),
        ("a fox <lora:ink:0.5>", "--adapter", "fox:0.8/0.25,mid_block=0@0.2-0.6"),
        ("a fox", "--hires-scale", "2", "--hires-steps", "2"),
    )):  # fmt: skip
        run("generate", *more, *FEW, "--seed", "7", "--out", f"{number}.png")
        again = run("generate", "--from", f"{number}.png", "--out", f"{number}-again.png", base=None)
        assert pixels(f"{number}.png") == pixels(f"{number}-again.png") and again["notes"] == []
        first, second = read_settings(f"{number}.png"), read_settings(f"{number}-again.png")
        assert first["generation"] == second["generation"] and first["base"] == second["base"]
    assert read_settings("1.png")["generation"]["adapters"][0]["blocks"] == {"mid_block": 0.0}
    run("generate", "--from", "1.png", "--adapter", "ink", "--out", "other.png", base=None)
    assert [use["name"] for use in read_settings("other.png")["generation"]["adapters"]] == ["ink"]
    settings = read_settings("1.png")
    Path("s.json").write_text(json.dumps(settings))
    Path("texts.json").write_text(json.dumps({
        **settings["generation"], "adapters": ["fox:0.8/0.25,mid_block=0@0.2-0.6", "ink:0.5"],
        "base": settings["base"]["ref"]}))  # fmt: skip
    run("generate", "--config", "texts.json", "--out", "texts.png", base=None)
    assert pixels("texts.png") == pixels("1.png")
    run("generate", "--config", "s.json", "--out", "json.png", base=None)
    assert pixels("json.png") == pixels("1.png")


def test_it_is_said_what_a_picture_was_drawn_otherwise_with(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    from tests.tiny import save_tiny_pipeline

    run("generate", "a fox", *FEW, "--out", "a.png")
    machine = read_settings("a.png")["machine"]
    assert machine["precision"] == "fp32" and machine["device"].startswith("CPU, ")
    notes = run("generate", "--from", "a.png", "--precision", "bf16", "--out", "b.png")["notes"]
    assert len(notes) == 1 and notes[0].endswith("drawn otherwise: precision fp32, now bf16")
    assert pixels("a.png") != pixels("b.png")
    other = save_tiny_pipeline(tmp_path / "other", seed=5)
    data = run("generate", "--from", "a.png", base=str(other))
    assert data["notes"] == ["the settings are of a picture of another base: this one differs"]


def test_a_vae_of_ones_own_is_taken_again(run: Run, tmp_path: Path) -> None:
    from tests.tiny import save_tiny_pipeline

    vae = save_tiny_pipeline(tmp_path / "other", seed=5) / "vae"
    run("generate", "a fox", *FEW, "--vae", str(vae), "--out", "a.png")
    again = run("generate", "--from", "a.png", "--out", "b.png", base=None)
    assert pixels("a.png") == pixels("b.png") and again["notes"] == []
    without = run("generate", "--from", "a.png", "--out", "c.png")
    assert pixels("a.png") != pixels("c.png") and "now none" in without["notes"][0]
    vae.rename(tmp_path / "gone")
    lost = run("generate", "--from", "a.png", "--out", "c.png", base=None)
    assert "give it with --vae" in lost["notes"][0]


@pytest.mark.usefixtures("library")
def test_a1111s_text_is_drawn_with_what_is_here(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    info = PngInfo()
    info.add_text(
        "parameters",
        "a fox <lora:ink:0.5>\nNegative prompt: grey\n"
        "Steps: 2, Sampler: Euler a, CFG scale: 2, Seed: 9, Size: 16x16, Weird: yes",
    )
    Image.new("RGB", (4, 4)).save("web.png", pnginfo=info)
    data = run("generate", "--from", "web.png", "--out", "a.png")
    run("generate", "a fox", *FEW, "--sampler", "euler_a", "--guidance", "2", "--seed", "9", "--negative",
        "grey", "--width", "16", "--height", "16", "--adapter", "ink:0.5", "--out", "b.png")  # fmt: skip
    assert pixels("a.png") == pixels("b.png")
    assert any("Weird" in note for note in data["notes"])


@pytest.mark.usefixtures("library")
def test_tags_in_the_prompt_are_adapters_of_the_library(run: Run) -> None:
    run("generate", "a fox <lora:INK:0.25:0.75>", *FEW, "--out", "tag.png")
    run("generate", "a fox", *FEW, "--adapter", "ink:0.75/0.25", "--out", "flag.png")
    assert pixels("tag.png") == pixels("flag.png")
    drawn = read_settings("tag.png")["generation"]
    assert drawn["prompt"] == "a fox" and len(drawn["adapters"][0]["sha256"]) == 64
    run("generate", "a fox", *FEW, "--out", "without.png")
    assert pixels("tag.png") != pixels("without.png")


def test_pictures_are_drawn_over(run: Run) -> None:
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save("in.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 16, 8))
    mask.save("mask.png")
    run("generate", "a fox", *FEW, "--image", "in.png", "--strength", "0.5", "--out", "over.png")
    use = read_settings("over.png")["generation"]["image"]
    assert use["name"] == "in.png" and len(use["sha256"]) == 64
    data = run(
        "generate",
        "a fox",
        *FEW,
        "--image",
        "in.png",
        "--mask",
        "mask.png",
        "--mask-blur",
        "0",
        "--out",
        "m.png",
    )
    before, after = Image.open("in.png").convert("RGB"), Image.open(data["pictures"][0])
    assert after.crop((0, 8, 16, 16)).tobytes() == before.crop((0, 8, 16, 16)).tobytes()
    assert after.crop((0, 0, 16, 8)).tobytes() != before.crop((0, 0, 16, 8)).tobytes()
    run("generate", "--from", "m.png", "--image", "in.png", "--mask", "mask.png", "--out", "again.png")
    assert pixels("again.png") == pixels("m.png")
    Path("s.toml").write_text('prompt = "a fox"\nsteps = 2\nimage = "in.png"\nstrength = 0.5\n')
    run("generate", "--config", "s.toml", "--out", "toml.png")
    assert pixels("toml.png") == pixels("over.png")
    Image.new("RGB", (16, 16), "red").save("red.png")
    data = run("generate", "--from", "over.png", "--image", "red.png", "--out", "red-over.png")
    assert any("it takes its place" in note for note in data["notes"])


@pytest.mark.usefixtures("library")
def test_a_grids_cells_are_the_pictures(run: Run) -> None:
    data = run(
        "grid", "a fox", *FEW, "--adapter", "fox", "--adapter", "ink:0.5", "--x", "weight:fox=0,1", "--y",
        "seed=3-4", "--cells", "cells", "--out", "g.png",
    )  # fmt: skip
    assert data["pictures"][0] == "g.png" and len(data["pictures"]) == 5
    assert data["axes"][0] == {"axis": "weight", "target": "fox", "values": [0.0, 1.0]}
    for x, weight in enumerate(("0", "1"), 1):
        for y, seed in enumerate(("3", "4"), 1):
            run(
                "generate",
                "a fox",
                *FEW,
                "--adapter",
                f"fox:{weight}",
                "--adapter",
                "ink:0.5",
                "--seed",
                seed,
            )
            assert pixels("picture.png") == pixels(f"cells/x{x:02d}-y{y:02d}.png"), (weight, seed)
    assert Image.open("g.png").width > 2 * 128
    assert restore("g.png").fields["seed"] == 3


def test_a_grid_over_bases(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    from tests.tiny import save_tiny_pipeline

    other = save_tiny_pipeline(tmp_path / "other", seed=5)
    run("grid", "a fox", *FEW, "--x", f"base={tiny_folder},{other}", "--cells", "cells")
    run("generate", "a fox", *FEW, base=str(other))
    assert pixels("picture.png") == pixels("cells/x02.png") != pixels("cells/x01.png")


@pytest.mark.usefixtures("library")
def test_a_strip_as_a_picture_and_as_a_loop(run: Run) -> None:
    data = run("strip", "a fox", *FEW, "--adapter", "fox", "--frames", "3")
    assert data["axes"][0]["values"] == [-1.0, 0.5, 2.0] and Image.open("strip.png").width > 3 * 128
    run("strip", "a fox", *FEW, "--adapter", "fox", "--adapter", "ink", "--of", "ink", "--low", "0", "--high",
        "1", "--frames", "3", "--out", "s.webp")  # fmt: skip
    with Image.open("s.webp") as loop:
        assert loop.n_frames == 4  # type: ignore[attr-defined]
    assert restore("s.webp").fields["prompt"] == "a fox"


WRONG: dict[str, list[str]] = {
    "no prompt": ["generate"],
    "steps no number": ["generate", "a", "--steps", "many"],
    "guidance out of range": ["generate", "a", "--guidance", "99"],
    "nearest sampler": ["generate", "a", "--sampler", "eulr"],
    "eta for a sampler without": ["generate", "a", "--eta", "0.5", "--sampler", "heun", "--steps", "1"],
    "tag of nobody": ["generate", "a <lora:fxo:1>"],
    "tag without a number": ["generate", "a <lora:fox:much>"],
    "tag out of range": ["generate", "a <lora:fox:9>"],
    "missing config": ["generate", "--config", "no.toml"],
    "config of another kind": ["generate", "--config", "s.yaml"],
    "broken toml": ["generate", "--config", "broken.toml"],
    "config of a list": ["generate", "--config", "list.json"],
    "unknown setting": ["generate", "a", "--config", "unknown.toml"],
    "setting of another type": ["generate", "a", "--config", "type.toml"],
    "adapters of another type": ["generate", "a", "--config", "adapters.toml"],
    "from nothing": ["generate", "--from", "no.png"],
    "from a silent picture": ["generate", "--from", "silent.png"],
    "from a picture of another base": ["generate", "--from", "web.png", "NO BASE"],
    "from a picture with an adapter that isn't here": ["generate", "--from", "web.png"],
    "missing picture": ["generate", "a", "--image", "no.png"],
    "picture that is none": ["generate", "a", "--image", "broken.toml"],
    "mask without a picture": ["generate", "a", "--mask", "silent.png"],
    "control that isn't understood": ["generate", "a", "--control", "silent.png"],
    "control without a net": ["generate", "a", "--control", "nonet=silent.png"],
    "image prompt with steps": ["generate", "a", "--image-prompt", "x=silent.png@0-1"],
    "grid without axes": ["grid", "a"],
    "grid of an unknown axis": ["grid", "a", "--x", "sed=1"],
    "grid out of range": ["grid", "a", "--x", "steps=0,1"],
    "grid too large": ["grid", "a", "--x", "seed=1-60", "--y", "steps=1-60"],
    "grid of many": ["grid", "a", "--x", "seed=1", "--count", "2"],
    "grid of one axis twice": ["grid", "a", "--x", "seed=1,2", "--y", "seed=3"],
    "grid of what changes nothing": ["grid", "a", "--x", "strength=0.2,0.5"],
    "grid with a sampler without eta": ["grid", "a", "--x", "eta=0,1", "--y", "sampler=ddim,euler"],
    "grid with a gap": ["grid", "a", "--x", "seed=1", "--z", "steps=1"],
    "grid of weights of nothing": ["grid", "a", "--x", "weight=1"],
    "grid of a base that isn't": ["grid", "a", "--x", "base=nobase"],
    "grid as JPEG": ["grid", "a", "--x", "seed=1", "--out", "g.jpg"],
    "cells into a file": ["grid", "a", "--x", "seed=1", "--cells", "silent.png"],
    "strip of nothing": ["strip", "a"],
    "strip of two": ["strip", "a", "--adapter", "fox", "--adapter", "ink"],
    "strip of a stranger": ["strip", "a", "--adapter", "fox", "--of", "owl"],
    "strip of one frame": ["strip", "a", "--adapter", "fox", "--frames", "1"],
    "strip backwards": ["strip", "a", "--adapter", "fox", "--low", "1", "--high", "0"],
    "strip out of range": ["strip", "a", "--adapter", "fox", "--high", "9"],
    "strip as GIF": ["strip", "a", "--adapter", "fox", "--out", "s.gif"],
}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("arguments", WRONG.values(), ids=list(WRONG))
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments: list[str], tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {
        "broken.toml": "= 3", "list.json": "[1]", "unknown.toml": "sed = 3", "type.toml": 'seed = "many"',
        "adapters.toml": "adapters = 3", "s.yaml": "a: b",
    }.items():  # fmt: skip
        Path(name).write_text(text)
    Image.new("RGB", (4, 4)).save("silent.png")
    info = PngInfo()
    info.add_text(
        "parameters", "a <lora:owl:1>\nSteps: 2, Sampler: Euler, CFG scale: 2, Seed: 9, Model: dream"
    )
    Image.new("RGB", (4, 4)).save("web.png", pnginfo=info)
    base = [] if "NO BASE" in arguments else ["--base", str(tiny_folder)]
    before = set(Path().rglob("*"))
    assert main([*(word for word in arguments if word != "NO BASE"), *base]) == 2
    captured = capsys.readouterr()
    message = captured.err.strip()
    assert captured.out == "" and message.startswith("error: ") and "\n" not in message
    assert set(Path().rglob("*")) == before


def test_progress_is_told_to_a_terminal_alone(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    line = ["generate", "a fox", *FEW, "--base", str(tiny_folder)]
    assert main(line) == 0
    assert "steps" not in capsys.readouterr().err
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True, raising=False)
    assert main([*line, "--json"]) == 0
    captured = capsys.readouterr()
    assert "2 of 2 steps" in captured.err
    assert json.loads(captured.out)["pictures"] == ["picture.png"]


def test_an_interrupt_keeps_what_is_drawn(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["generate", "a fox", *FEW, "--count", "3", "--base", str(tiny_folder)]

    def interrupted(after: int) -> Callable[..., None]:
        def step(self: object, step: Any) -> None:
            if step.done == after:
                raise KeyboardInterrupt

        return step

    step = "studio.commands.pictures.StepLine.__call__"
    monkeypatch.setattr(step, interrupted(after=5))
    assert main(line) == 130
    captured = capsys.readouterr()
    assert captured.err == "interrupted: 2 of 3 pictures are drawn\n"
    assert captured.out.split() == ["picture-01.png", "picture-02.png"]
    monkeypatch.setattr(step, interrupted(after=1))
    assert main([*line, "--seed", "7", "--out", "none.png"]) == 130
    assert capsys.readouterr().out == "" and not list(Path().glob("none*"))
    monkeypatch.setattr(step, lambda self, step: None)
    assert main([*line, "--out", "whole.png"]) == 0
    for number in ("01", "02"):
        assert Path(f"picture-{number}.png").read_bytes() == Path(f"whole-{number}.png").read_bytes()


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("generate", "grid", "strip"):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert "--from" in said and "--json" in said and "--hires-scale" in said
