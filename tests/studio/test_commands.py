"""The commands for adapters: each does its work, says it for people and as JSON, and refuses in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.base import Base, load_base
from pipelines.formats import inspect_adapter, read_adapter, write_adapter
from pipelines.recipe import read_recipe
from studio.cli import main
from studio.commands.arguments import weighted
from tests.pipelines.making import random_adapter_of
from tests.tiny import save_tiny_pipeline, target_modules

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with --json and return what it printed."""

    def run(*arguments: str) -> Any:
        code = main([*arguments, "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return run


@pytest.fixture
def one(make_adapter: Callable[..., Path]) -> str:
    return str(make_adapter(Path("one.safetensors").absolute(), name="one"))


@pytest.fixture
def two(make_adapter: Callable[..., Path]) -> str:
    return str(make_adapter(Path("two.safetensors").absolute(), seed=1, name="two"))


def test_weights_in_one_word() -> None:
    from pipelines.mixing.weights import Weights

    assert weighted("zib") == ("zib", Weights())
    assert weighted("zib:0.8") == ("zib", Weights(unet=0.8))
    assert weighted("a/b c.safetensors:-2/0") == ("a/b c.safetensors", Weights(unet=-2.0, text=0.0))
    assert weighted("ink:1/0.5,mid_block=0,up_blocks.1=1.5@0.3-0.6") == (
        "ink",
        Weights(unet=1.0, text=0.5, blocks={"mid_block": 0.0, "up_blocks.1": 1.5}, begin=0.3, end=0.6),
    )
    assert weighted("ink:1@0.5-0.5")[1] == Weights(begin=0.5, end=0.5)
    assert weighted("C:\\loras\\ink.safetensors") == ("C:\\loras\\ink.safetensors", Weights())


def test_export_with_a_picture_and_as_lora(run: Run, one: str, tiny_folder: Path, tiny_base: Base) -> None:
    report = run("export", one, "--format", "diffusers", "--base", str(tiny_folder), "--out", "d.safetensors")
    assert report["loaded_modules"] == report["modules"]
    assert float(report["psnr_db"]) > 35
    write_adapter(random_adapter_of(tiny_base, "loha", target_modules(tiny_base)), "l.safetensors", "lycoris")
    report = run("export", "l.safetensors", "--as-lora", "--energy", "0.9", "--base", str(tiny_folder))
    assert report["path"] == "l-kohya.safetensors" and 0.2 < report["lora_error"] < 0.33
    report = run("export", one, "--format", "peft", "--no-picture")
    assert report["path"] == "one-peft" and Path("one-peft/unet/adapter_config.json").is_file()


def test_convert_goes_round(run: Run, one: str) -> None:
    report = run("convert", one, "--format", "pigment", "--dtype", "fp32")
    assert report["loaded_by"] is None and report["keys_matched"] == report["keys_expected"]
    run("convert", "one-pigment.safetensors", "--out", "back.safetensors")
    first, back = read_adapter(one), read_adapter("back.safetensors")
    assert first.factors.keys() == back.factors.keys()
    assert inspect_adapter("back.safetensors")["format"] == "kohya"


def test_resize_by_each_rule(run: Run, one: str) -> None:
    report = run("resize", one, "--rank", "2")
    assert report["resize"]["rank_max"] == 2 == inspect_adapter(report["export"]["path"])["rank"]
    report = run("resize", one, "--error", "0.3", "--out", "e.safetensors")
    assert 0 < report["resize"]["error"] <= 0.3
    report = run("resize", one, "--energy", "1", "--out", "all.safetensors")
    assert report["resize"]["error"] < 1e-5


def test_extract_finds_what_was_folded_in(run: Run, one: str, tiny_folder: Path, tmp_path: Path) -> None:
    from pipelines.mixer import Mixer

    tuned = save_tiny_pipeline(tmp_path / "tuned")
    base = load_base(tiny_folder, device="cpu")
    with Mixer(base) as mixer:
        mixer.add("one", read_adapter(one))
        mixer.set({"one": 1.0})
        base.unet.save_pretrained(tuned / "unet")
        base.text_encoder.save_pretrained(tuned / "text_encoder")
    report = run(
        "extract",
        str(tuned),
        "--base",
        str(tiny_folder),
        "--rank",
        "4",
        "--dtype",
        "fp32",
        "--out",
        "x.safetensors",
    )
    assert report["extract"]["error"] < 1e-4
    wanted, found = read_adapter(one), read_adapter("x.safetensors")
    assert found.factors.keys() == wanted.factors.keys()
    for module, factors in wanted.factors.items():
        assert (found.factors[module].delta() - factors.delta()).norm() < 1e-3 * factors.delta().norm(), (
            module
        )


def test_merge_says_its_error(run: Run, one: str, two: str) -> None:
    report = run("merge", f"{one}:0.5", f"{two}:-1/0.25", "--out", "m.safetensors", "--name", "both")
    assert report["merge"]["error"] < 1e-6
    merged, parts = read_adapter("m.safetensors"), (read_adapter(one), read_adapter(two))
    for module, factors in merged.factors.items():
        sides = (0.5, -1.0) if module.startswith("unet.") else (0.5, 0.25)
        wanted = sum(side * part.factors[module].delta() for side, part in zip(sides, parts, strict=True))
        assert (factors.delta() - wanted).norm() < 2e-3 * wanted.norm(), module  # type: ignore[union-attr]
    assert merged.name == "both"
    report = run(
        "merge", one, two, "--method", "ties", "--density", "0.5", "--rank", "8", "--out", "t.safetensors"
    )
    assert report["merge"]["error"] > 0.05


def test_mix_reports_draws_and_saves(run: Run, one: str, two: str, tiny_folder: Path) -> None:
    base = ["--base", str(tiny_folder)]
    data = run(
        "mix", f"{one}:0.8", f"{two}:0.4/0,mid_block=0@0.2-0.5", "--prompt", "a disc", "--steps", "2",
        "--recipe", "r.json", "--heatmap", "h.png", *base,
    )  # fmt: skip
    assert data["weights"]["two"] == {
        "unet": 0.4, "text": 0.0, "blocks": {"mid_block": 0.0}, "begin": 0.2, "end": 0.5,
    }  # fmt: skip
    assert data["pictures"] == ["mix.png"] and Image.open("h.png").width <= 1000
    recipe = read_recipe("r.json")
    assert recipe.adapters[1].blocks == {"mid_block": 0.0} and recipe.prompt == "a disc"
    again = run("mix", "r.json", "--folder", ".", "--steps", "2", "--out", "again.png", *base)
    assert again["pictures"] == ["again.png"]
    assert Image.open("again.png").tobytes() == Image.open("mix.png").tobytes()
    data = run("mix", one, two, "--prompt", "x", "--grid", "0,1", "--steps", "1", "--out", "g.png", *base)
    assert data["pictures"] == ["g.png"] and Image.open("g.png").width > 2 * 16
    data = run("mix", f"{one}:1", f"{two}:1", "--balance", "norm", *base)
    assert sum(weight["unet"] for weight in data["weights"].values()) == pytest.approx(2, abs=0.02)


def test_a_recipe_without_its_adapters_says_what_is_missing(
    run: Run, one: str, two: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("mix", one, two, "--recipe", "r.json", "--base", str(tiny_folder))
    assert main(["mix", "r.json", "--base", str(tiny_folder)]) == 2
    assert "2 of 2 adapters aren't here" in capsys.readouterr().err
    assert len(run("inspect", "r.json")["missing"]) == 2


def test_inspect_a_file_its_anatomy_and_a_folder(run: Run, one: str, two: str, tiny_folder: Path) -> None:
    info = run("inspect", one, "--anatomy", "--against-base", "--base", str(tiny_folder))
    assert info["rank"] == 4 and info["anatomy"]
    Path("bad.safetensors").write_bytes(b"12345678")
    for _ in range(2):
        rows = run("inspect", ".")
        assert [Path(row["path"]).name for row in rows] == [
            "bad.safetensors",
            "one.safetensors",
            "two.safetensors",
        ]
        assert rows[0]["error"] and rows[1]["rank"] == 4


def test_metadata_change_and_tensors_stay(run: Run, one: str) -> None:
    before = read_adapter(one)
    done = run(
        "metadata", one, "--set", "title=Disc of discs", "--set", "author=Ada", "--out", "n.safetensors"
    )
    after = read_adapter("n.safetensors")
    assert done["path"] == "n.safetensors" and after.metadata["modelspec.author"] == "Ada"
    assert all((after.factors[m].delta() == before.factors[m].delta()).all() for m in before.factors)


def test_the_fitting_part_of_a_file_on_request(
    run: Run, one: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(one)
    save_file({**tensors, "bundle.x": tensors[sorted(tensors)[0]].clone()}, "odd.safetensors")
    assert main(["convert", "odd.safetensors"]) == 2
    assert "known" in capsys.readouterr().err
    code = main(["convert", "odd.safetensors", "--part", "--base", str(tiny_folder), "--json"])
    captured = capsys.readouterr()
    assert code == 0 and "bundle.x" in captured.err
    assert json.loads(captured.out)["keys_matched"] == len(tensors)


# The drawing library loads each form of each family in tests/pipelines; here the commands find the family.
FORMS = [("sd2", "peft"), ("sdxl", "kohya")]
if os.environ.get("PIGMENT_LONG"):
    FORMS = [(family, form) for family in ("sd2", "sdxl") for form in ("kohya", "diffusers", "peft")]


@pytest.mark.parametrize(("family", "form"), FORMS)
def test_adapters_of_other_families_are_exported(
    run: Run, tiny_folders: dict[str, Path], family: str, form: str
) -> None:
    base = load_base(tiny_folders[family], device="cpu")
    write_adapter(random_adapter_of(base, "lora", target_modules(base)), "a.safetensors", "kohya")
    out = "out" if form == "peft" else "out.safetensors"
    report = run("export", "a.safetensors", "--format", form, "--base", str(base.path), "--out", out)
    assert report["loaded_modules"] == report["modules"]


def test_the_text_side_keeps_its_proportion(run: Run, one: str, two: str, tiny_folder: Path) -> None:
    base = ["--base", str(tiny_folder)]
    data = run("mix", f"{one}:1/0", f"{two}:1/0.5", "--balance", "norm", *base)
    assert data["weights"]["one"]["text"] == 0
    assert data["weights"]["two"]["text"] == pytest.approx(data["weights"]["two"]["unet"] / 2)
    drawing = ["--prompt", "x", "--grid", "1,0.5", "--steps", "1", *base]
    run("mix", f"{one}:1/0", "--out", "without.png", *drawing)
    run("mix", f"{one}:1", "--out", "with.png", *drawing)
    assert Image.open("without.png").tobytes() != Image.open("with.png").tobytes()


def test_blocks_count_in_the_report(run: Run, one: str, two: str, tiny_folder: Path) -> None:
    data = run("mix", f"{one}:1,mid_block=0", two, "--base", str(tiny_folder))
    blocks = data["interference"]["blocks"]
    assert blocks["mid_block"]["share"]["one"] == 0 < blocks["down_blocks.0"]["share"]["one"]


def test_a_recipe_of_another_base_is_said(run: Run, one: str, tiny_folder: Path, tmp_path: Path) -> None:
    run("mix", one, "--recipe", "r.json", "--base", str(tiny_folder))
    other = save_tiny_pipeline(tmp_path / "other", seed=5)
    assert "made on base" in run("mix", "r.json", "--folder", ".", "--base", str(other))["note"]
    assert "note" not in run("mix", "r.json", "--folder", ".", "--base", str(tiny_folder))


def test_a_name_with_a_colon_is_a_file(run: Run, one: str) -> None:
    odd = Path("tea: pot.safetensors")
    odd.write_bytes(Path(one).read_bytes())
    assert weighted(str(odd)) == (str(odd), weighted("x")[1])
    assert weighted(f"{odd}:0.5")[0] == str(odd)


WRONG = {
    "resize without a rule": ["resize", "one.safetensors"],
    "rank 0": ["resize", "one.safetensors", "--rank", "0"],
    "energy above 1": ["resize", "one.safetensors", "--energy", "1.5"],
    "as lora without a rule": ["export", "one.safetensors", "--as-lora", "--no-picture"],
    "rule without as lora": ["export", "one.safetensors", "--rank", "4", "--no-picture"],
    "onto itself": ["convert", "one.safetensors", "--out", "one.safetensors"],
    "merge onto a part": ["merge", "one.safetensors", "two.safetensors", "--out", "two.safetensors"],
    "merge with blocks": ["merge", "one.safetensors:1,mid_block=0", "two.safetensors"],
    "merge with a foreign setting": ["merge", "one.safetensors", "two.safetensors", "--density", "0.5"],
    "density 0": ["merge", "one.safetensors", "two.safetensors", "--method", "ties", "--density", "0"],
    "unknown merge": ["merge", "one.safetensors", "two.safetensors", "--method", "magic"],
    "unknown block": ["mix", "one.safetensors:1,attic=0", "--base", "BASE", "--prompt", "x"],
    "block without factor": ["mix", "one.safetensors:1,mid_block"],
    "steps that are words": ["mix", "one.safetensors:1@late-later"],
    "text weight out of range": ["mix", "one.safetensors:1/9"],
    "grid without a prompt": ["mix", "one.safetensors", "--grid", "0,1"],
    "grid of words": ["mix", "one.safetensors", "--grid", "a,b", "--prompt", "x"],
    "grid out of range": ["mix", "one.safetensors", "--grid", "0,9", "--prompt", "x"],
    "heat map as JPEG": ["mix", "one.safetensors", "--heatmap", "h.jpg"],
    "folder with an ending": ["export", "one.safetensors", "--format", "peft", "--out", "x.safetensors"],
    "embedding of a LoRA": ["convert", "one.safetensors", "--format", "embedding"],
    "extract without a rule": ["extract", "BASE", "--base", "BASE"],
    "extract of nothing": ["extract", "nowhere", "--rank", "4"],
    "metadata without a change": ["metadata", "one.safetensors"],
    "metadata without a value": ["metadata", "one.safetensors", "--set", "title"],
    "inspect of a broken recipe": ["inspect", "bad.json"],
    "mix of a broken recipe": ["mix", "bad.json"],
    "another family's base": ["export", "one.safetensors", "--base", "SDXL"],
    "a shape that doesn't fit": ["mix", "one.safetensors"],
    "bench of nothing": ["bench"],
    "a base for metadata": ["metadata", "one.safetensors", "--set", "title=x", "--base", "BASE"],
    "a base for converting": ["convert", "one.safetensors", "--base", "BASE"],
    "a base without a picture": ["export", "one.safetensors", "--no-picture", "--base", "BASE"],
    "a base without anatomy": ["inspect", "one.safetensors", "--base", "BASE"],
    "a folder of somebody's own": ["convert", "one.safetensors", "--format", "peft", "--out", "own"],
    "onto itself by another way": [
        "resize",
        "one.safetensors",
        "--rank",
        "1",
        "--out",
        "own/../one.safetensors",
    ],
    "a folder without a name": ["convert", "one.safetensors", "--format", "peft", "--out", "."],
    "too long a name": ["inspect", "a" * 300],
    "nobody's home": ["inspect", "~nosuchuser/x.safetensors"],
    "nobody's base": ["mix", "one.safetensors", "--base", "~nosuchuser/x"],
    "block without a number": ["mix", "one.safetensors:1,mid_block=nan", "--recipe", "q.json"],
    "unknown block in a recipe": ["mix", "one.safetensors:1,attic=0", "--base", "BASE", "--recipe", "q.json"],
    "block twice": ["mix", "one.safetensors:1,mid_block=0,mid_block=1"],
    "failing late": [
        "mix",
        "one.safetensors:1,attic=0",
        "--base",
        "BASE",
        "--heatmap",
        "h.png",
        "--prompt",
        "x",
    ],
    "out without a prompt": ["mix", "one.safetensors", "--out", "x.png", "--base", "BASE"],
    "grid with a count": ["mix", "one.safetensors", "--grid", "0,1", "--count", "3", "--prompt", "x"],
    "folder without a recipe": ["mix", "one.safetensors", "--folder", "own"],
    "anatomy of a folder": ["inspect", "own", "--anatomy"],
    "against a base without anatomy": ["inspect", "one.safetensors", "--against-base"],
    "import of a folder": ["import", "own"],
    "unknown bench": ["bench", "everything"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=list(WRONG))
def test_wrong_input_is_one_line_and_code_2(
    arguments: list[str],
    one: str,
    two: str,
    tiny_folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("bad.json").write_text('{"pigment_recipe": 1}')
    Path("own/unet").mkdir(parents=True)
    Path("own/thesis.txt").write_text("precious")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    places = {"BASE": str(tiny_folders["sd15"]), "SDXL": str(tiny_folders["sdxl"])}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message = captured.err.strip()
    assert message.startswith("error: ") and "\n" not in message and len(message) < 400
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("mix", "merge", "export", "convert", "resize", "extract", "inspect", "metadata"):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert "--json" in said and len(said) > 500, command
