"""Bases by name, and how their options reach drawing and teaching."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pipelines.bases.source import open_source
from pipelines.errors import BaseError
from studio.bases import BaseOptions, Bases
from studio.datasets import Datasets
from studio.gallery import Gallery
from studio.workspace import _STEPS, SCHEMA_VERSION, Workspace


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_an_older_index_is_brought_up_to_date(tmp_path: Path) -> None:
    """An index of version 1, with something in it."""
    (tmp_path / "old").mkdir()
    with sqlite3.connect(tmp_path / "old" / "pigment.sqlite3") as db:
        db.executescript(_STEPS[1])
        db.execute("INSERT INTO settings VALUES ('k', '7')")
        db.execute("PRAGMA user_version = 1")
    workspace = Workspace.open(tmp_path / "old", own=False)
    assert workspace.setting("k") == 7 and Bases(workspace).entries() == []
    with workspace.read() as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION == 4


def test_an_early_index_of_version_3_gets_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with sqlite3.connect(tmp_path / "old" / "pigment.sqlite3") as db:
        db.executescript(_STEPS[1] + _STEPS[2] + _STEPS[3].replace("mask TEXT NOT NULL DEFAULT '', ", ""))
        db.executescript("CREATE INDEX adapters_by_time ON adapters (trashed, origin, created)")
        db.execute(
            "INSERT INTO images (id, file, seed, settings, created) VALUES ('a', 'images/a.png', 7, ?, 1)",
            ('{"generation": {"prompt": "An Owl", "width": 64, "height": 32}}',),
        )
        db.execute("PRAGMA user_version = 3")
    workspace = Workspace.open(tmp_path / "old", own=False)
    datasets, gallery = Datasets(workspace), Gallery(workspace)
    assert datasets.get(datasets.new().id).items == ()
    [drawn] = gallery.search("owl 7").pictures
    assert (drawn.width, drawn.height) == (64, 32)
    with workspace.read() as db:
        names = [row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")]
    assert {"adapters_searched", "images_found"} <= set(names) and "adapters_by_time" not in names
    Workspace.open(tmp_path / "old", own=False)


def test_a_base_is_listed_by_reference(workspace: Workspace, tiny_folder: Path, tiny_file: Path) -> None:
    bases = Bases(workspace)
    entry, new = bases.add(open_source(str(tiny_folder)), name="mine")
    assert new and entry.ref == str(tiny_folder) and entry.family == "sd15"
    assert entry.prediction_type == "epsilon" and len(entry.sha256) == 64
    assert bases.add(open_source(str(tiny_folder))) == (entry, False)
    assert bases.add(open_source(str(tiny_file)))[0].name == "tiny one"
    assert [one.name for one in bases.entries()] == ["mine", "tiny one"]
    assert bases.ref("mine") == str(tiny_folder)
    assert bases.remove("mine").ref == str(tiny_folder)
    assert tiny_folder.is_dir() and bases.find("mine") is None


def test_names(workspace: Workspace, tiny_folder: Path, tiny_file: Path) -> None:
    bases, source = Bases(workspace), open_source(str(tiny_folder))
    for name in ("pocket", "a/b", "a\\b", "x.safetensors", "a@b", "~x", "x" * 81, "bell\a"):
        with pytest.raises(BaseError):
            bases.add(source, name=name)
    bases.add(source, name="  two   words ")
    with pytest.raises(BaseError, match="another base is called 'two words'"):
        bases.add(open_source(str(tiny_file)), name="two words")
    with pytest.raises(BaseError, match="did you mean 'two words'"):
        bases.ref("two wrds")
    with pytest.raises(BaseError, match="always there"):
        bases.add(open_source("pocket"))


def test_two_bases_of_one_file_name_get_a_number(
    workspace: Workspace, tiny_file: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(tiny_file, tmp_path / tiny_file.name))
    names = [Bases(workspace).add(open_source(str(path)))[0].name for path in (tiny_file, copy)]
    assert names == ["tiny one", "tiny one 2"]


def test_a_base_whose_file_is_gone_says_so(workspace: Workspace, tiny_file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(tiny_file, tmp_path / "gone.safetensors"))
    entry, _ = Bases(workspace).add(open_source(str(copy)))
    assert not entry.missing
    copy.unlink()
    assert entry.missing
    with pytest.raises(BaseError, match="which is gone"):
        Bases(workspace).ref("gone")


def test_training_takes_the_same_bases(tiny_file: Path, here: Path) -> None:
    from trainers.config import config_from

    shutil.copy(tiny_file, here / "base.safetensors")
    (here / "pocket").mkdir()
    values = {
        "data": {"instance_images": "p", "instance_prompt": "a zib", "trigger": "zib"},
        "run": {"output": "out"},
    }

    def base_of(base: str, vae: str = "") -> tuple[str, str]:
        run = {**values["run"], "base": base, "vae": vae}
        config = config_from({**values, "run": run}, here).run
        return config.base, config.vae

    assert base_of("base.safetensors") == (str(here / "base.safetensors"), "")
    assert base_of("pocket") == ("pocket", "")
    assert base_of("org/name", "base.safetensors") == ("org/name", str(here / "base.safetensors"))


def test_the_pages_options_reach_drawing_and_teaching(
    tiny_folder: Path,
    tiny_file: Path,
    workspace: Workspace,
    filled: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The drawing child gets them on its command line, a lesson in its config."""
    from studio import maker, processes, teaching
    from studio.context import Context
    from studio.runner import Runner
    from trainers import loop

    options = BaseOptions(vae=str(tiny_file), device="cpu", precision="bf16", placement={"vae_slicing": True})
    runner = Runner(workspace, base=str(tiny_folder), options=options)
    seen: list[str] = []
    monkeypatch.setattr(processes, "spawn", lambda *words, **_: seen.extend(words))
    with pytest.raises(AssertionError):  # nothing was started
        runner.maker.start()
    assert BaseOptions.from_text(seen[seen.index("--base-options") + 1]) == options
    with maker.Maker(workspace, options).held.lent(str(tiny_folder)) as (mixer, _):
        base = mixer.base
    assert str(base.dtype) == "torch.bfloat16"
    assert base.source is not None and base.source.vae_path == tiny_file
    assert base.vae.use_slicing
    lesson = teaching.Lesson(dataset=filled, trigger="zib", class_name="disc")
    job = teaching.start(Context(workspace, runner, str(tiny_folder), options), lesson)
    run = job.config["run"]
    assert (run["base"], run["vae"]) == (str(tiny_folder), str(tiny_file))
    assert (run["device"], run["precision"]) == ("cpu", "bf16")
    given: dict[str, Any] = {}

    def load(ref: str, **options: Any) -> Any:
        given.update(options, ref=ref)
        raise BaseError("seen")

    monkeypatch.setattr(loop, "load_base", load)
    from trainers.config import validate

    with pytest.raises(BaseError, match="seen"):
        next(loop.train(validate(job.config)))
    assert given["vae"] == str(tiny_file) and given["ref"] == str(tiny_folder)
