"""The run bundle: what is written of a run, how it is read, and each kind of difference by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.files import file_sha256
from pipelines.recipe import find_adapters, read_recipe
from tests.trainers.bundled import small_run
from trainers import bundle, bundle_differences
from trainers.__main__ import main
from trainers.arguments import config_of, parser
from trainers.bundle_again import opened
from trainers.bundle_differences import before
from trainers.bundle_format import read_bundle
from trainers.config import TrainConfig
from trainers.run_folder import ADAPTER_NAME

Change = Callable[[Path, TrainConfig], TrainConfig | None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> TrainConfig:
    """The config of a small run that has left its bundle. Don't write into it."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny_folder, root / "base")
    return small_run(root, root / "base")


@pytest.fixture
def copy(made: TrainConfig, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Copy of a part of the run's inputs, to be changed: the config then names the copies."""

    def copied(*names: str) -> TrainConfig:
        at = {name: tmp_path / name for name in names}
        for name, path in at.items():
            shutil.copytree(made.run.output.parent / name, path)
        run: dict[str, Any] = {"output": tmp_path / "again"}
        run |= {"base": str(at["base"])} if "base" in at else {}
        run |= {"cache": at["cache"]} if "cache" in at else {}
        data = {"instance_images": at["pictures"]} if "pictures" in at else {}
        return made.model_copy(
            update={"run": made.run.model_copy(update=run), "data": made.data.model_copy(update=data)}
        )

    return copied


@pytest.fixture
def threads() -> Iterator[int]:
    """The number of threads, put back afterwards."""
    count = torch.get_num_threads()
    yield count
    torch.set_num_threads(count)


def test_a_bundle_holds_all_of_a_run_and_no_folder_of_it(made: TrainConfig) -> None:
    folder = made.run.output
    text = (folder / "bundle" / "bundle.toml").read_text()
    found = read_bundle(folder)
    assert str(folder.parent) not in text and found.local == ("run.base",)
    assert found.made.sha256 == file_sha256(folder / ADAPTER_NAME) and 0 < found.made.step < made.run.steps
    assert [one.name for one in found.data.pictures] == ["00.png", "01.png", "02.png"]
    assert [one.held_out for one in found.data.pictures] == [False, False, True]
    assert [one.name for one in found.data.beside] == ["01.txt"] and len(found.data.drawn) == 2
    assert found.environment.versions["torch"] == torch.__version__
    recipe = read_recipe(folder / "bundle" / "recipe.json")
    assert find_adapters(recipe, [folder / ADAPTER_NAME]).problem() is None
    assert before(found, made) == []


def test_a_run_made_again_elsewhere_is_the_same_file(
    made: TrainConfig, tmp_path: Path, threads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures elsewhere"
    shutil.copytree(made.data.instance_images, pictures)
    shutil.copytree(made.run.output / "bundle", tmp_path / "bundle")  # away from the run's own config
    torch.set_num_threads(threads + 1)
    said = [str(tmp_path / "bundle"), "--pictures", str(pictures), "--base", made.run.base]
    said += ["--set", f"run.cache={tmp_path / 'cache'}", "--output", str(tmp_path / "again")]
    assert main(said) == 0
    shown = capsys.readouterr()
    assert "bit for bit" in shown.out and "warning" not in shown.err
    was, now = read_bundle(made.run.output), read_bundle(tmp_path / "again")
    assert file_sha256(tmp_path / "again" / ADAPTER_NAME) == was.made.sha256 == now.made.sha256
    assert now == was


def test_pictures_and_base_are_found_where_the_run_had_them(made: TrainConfig) -> None:
    asked = parser("x").parse_args([str(made.run.output)])
    assert opened(asked) is not None
    found = config_of(asked)
    assert found.data.instance_images == made.data.instance_images and found.run.base == made.run.base
    assert found.run.output == Path.cwd() / "runs" / "zuv-again" and found.run.cache == made.run.cache


# ── Differences


def _drop(root: Path, config: TrainConfig) -> None:
    (root / "pictures" / "01.png").unlink()


def _rename(root: Path, config: TrainConfig) -> None:
    (root / "pictures" / "01.png").rename(root / "pictures" / "0a.png")


def _add(root: Path, config: TrainConfig) -> None:
    Image.new("RGB", (9, 9)).save(root / "pictures" / "00a.png")


def _repaint(root: Path, config: TrainConfig) -> None:
    Image.new("RGB", (9, 9)).save(root / "pictures" / "00.png")


def _say(root: Path, config: TrainConfig) -> None:
    (root / "pictures" / "01.txt").write_text("a <zuv> disc")


def _repeat(root: Path, config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"repeats": 3})})


def _rebase(root: Path, config: TrainConfig) -> None:
    path = root / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("\n}", "\n }"))


def _lose_base(root: Path, config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"base": "base"})})


def _lose_pictures(root: Path, config: TrainConfig) -> None:
    shutil.rmtree(root / "pictures")


def _redraw(root: Path, config: TrainConfig) -> None:
    group = next((root / "cache" / "class_pictures").iterdir())
    Image.new("RGB", (16, 16)).save(group / "001.png")
    said = json.loads((group / "group.json").read_text())
    said["sha256"]["001.png"] = file_sha256(group / "001.png")
    (group / "group.json").write_text(json.dumps(said))


def _steps(root: Path, config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"steps": 9})})


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("pictures", _drop, "picture '01.png' (SHA-256 "),
        ("pictures", _rename, "picture '01.png' is called '0a.png' here"),
        ("pictures", _add, "picture '00a.png' isn't one of the bundle's"),
        ("pictures", _repaint, "picture '00.png': another content (SHA-256 "),
        ("pictures", _say, "picture '01.png': another caption, now “a <zuv> disc”"),
        ("pictures", _repeat, "picture '00.png': comes 3 times a round, was 1"),
        (
            "pictures",
            _lose_pictures,
            "none of the bundle's pictures (3) is here; say where they are",
        ),
        ("base", _rebase, "base 'base' is another: SHA-256 "),
        ("base", _lose_base, "base 'base' (SHA-256 "),
        ("cache", _redraw, "came out otherwise (SHA-256 "),
        ("cache", _steps, "run.steps: the bundle has 4, now 9; another file comes of it"),
    ],
)
def test_what_another_file_would_come_of_is_named(
    made: TrainConfig, copy: Callable[..., TrainConfig], tmp_path: Path, part: str, change: Change, words: str
) -> None:
    config = copy(part)
    found = before(read_bundle(made.run.output), change(tmp_path, config) or config)
    assert any(words in one.words and one.fatal for one in found), found
    assert not any("is called" in one.words for one in found) or len(found) == 1


def test_a_mask_repeats_and_class_pictures_are_held_against_the_bundle(
    made: TrainConfig, copy: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config, was = copy("pictures"), read_bundle(made.run.output)
    for name in ("00", "01", "02"):
        Image.new("L", (24, 24), 255).save(tmp_path / "pictures" / f"{name}.mask.png")
    masked = config.model_copy(update={"data": config.data.model_copy(update={"masks": "file"})})
    found = [one.words for one in before(was, masked)]
    assert "picture '02.png': another mask" in found
    assert "data.masks: the bundle has none, now file; another file comes of it" in found
    given = config.model_copy(
        update={"data": config.data.model_copy(update={"class_images": tmp_path / "pictures"})}
    )
    found = [one.words for one in before(was, given)]
    assert "class picture '00.png' isn't one of the bundle's; take it away" in found


def test_versions_machine_device_and_threads_are_warnings(
    made: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = read_bundle(made.run.output)
    monkeypatch.setattr(bundle, "library_versions", lambda: {**was.environment.versions, "torch": "9.9"})
    monkeypatch.setattr(bundle, "this_machine", lambda: {**was.environment.machine, "processor": "A\x1b[2J"})
    run = made.run.model_copy(update={"threads": was.environment.threads + 1, "checkpoint_every": 3})
    device = {**was.environment.device, "device": "Some Card"}
    there = was.model_copy(update={"environment": was.environment.model_copy(update={"device": device})})
    found = before(there, made.model_copy(update={"run": run}), processes=2)
    assert not any(one.fatal for one in found)
    said = " | ".join(one.words for one in found)
    for words in (
        f"torch is 9.9, the bundle's {torch.__version__}", "machine: processor is A [2J, the bundle's ",
        "device: device is cpu, the bundle's Some Card", "processes is 2, the bundle's 1",
        f"threads is {run.threads}, the bundle's {was.environment.threads}",
        "run.checkpoint_every: the bundle has 50, now 3; the numbers stay, the file's metadata don't",
    ):  # fmt: skip
        assert words in said


def test_of_many_differences_the_first_ones_are_said(made: TrainConfig) -> None:
    was = read_bundle(made.run.output)
    more = [
        one.model_copy(update={"name": f"more {n}.png"}) for n in range(20) for one in was.data.pictures[:1]
    ]
    grown = was.model_copy(
        update={"data": was.data.model_copy(update={"pictures": (*was.data.pictures, *more)})}
    )
    found = before(grown, made)
    assert len(found) == bundle_differences.MOST + 1 and found[-1].words == "… and 8 pictures more like these"
