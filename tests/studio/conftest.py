"""A workspace, small pictures and small adapter files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from studio.context import Context
from studio.runner import Runner
from studio.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """An empty workspace, owned by the test."""
    opened = Workspace.open(tmp_path / "workspace")
    yield opened
    opened.close()


@pytest.fixture
def context(workspace: Workspace) -> Context:
    """The studio behind the page; nothing runs in it."""
    return Context(workspace, Runner(workspace))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Five pictures of a disc."""
    folder = tmp_path / "dropped"
    folder.mkdir()
    paths = []
    for index, colour in enumerate(("red", "teal", "gold", "navy", "gray")):
        picture = Image.new("RGB", (24, 24), colour)
        ImageDraw.Draw(picture).ellipse((3 + index, 3, 20, 20), fill="white")
        paths.append(folder / f"disc {index}.png")
        picture.save(paths[-1])
    return paths


@pytest.fixture
def put(workspace: Workspace) -> Callable[..., None]:
    """Put pictures into a dataset: `put(id, *paths)`; they are decoded here, without a child process."""
    from studio.datasets import Datasets
    from studio.decoding import decode

    def put(dataset_id: str, *paths: Path) -> None:
        pictures = Datasets(workspace).pictures
        kept = [pictures.copy(path, decode(path, None), path.name) for path in paths]
        pictures.enter(kept)
        first = len(Datasets(workspace).get(dataset_id).items)
        with workspace.write() as db:
            db.executemany(
                "INSERT INTO dataset_pictures (dataset, position, sha256, name) VALUES (?, ?, ?, ?)",
                [(dataset_id, first + number, one.sha256, one.name) for number, one in enumerate(kept)],
            )

    return put


@pytest.fixture
def filled(workspace: Workspace, pictures: list[Path], put: Callable[..., None]) -> str:
    """The id of a dataset of these pictures."""
    from studio.datasets import Datasets

    dataset = Datasets(workspace).new()
    put(dataset.id, *pictures)
    return dataset.id


@pytest.fixture(scope="session")
def make_adapter(tiny_folder: Path) -> Callable[..., Path]:
    """Write a random adapter for the tiny base, made once for all tests: `make_adapter(path, seed=…)`."""
    from pipelines.base import load_base
    from pipelines.formats import write_adapter
    from tests.tiny import random_adapter

    base = load_base(tiny_folder, device="cpu")
    made: dict[tuple[int, str, str], bytes] = {}

    def make(path: Path, *, seed: int = 0, name: str = "disc", format: str = "kohya") -> Path:
        known = (seed, name, format)
        if known in made:
            path.write_bytes(made[known])
        else:
            write_adapter(random_adapter(base, seed=seed, name=name), path, format=format)
            if path.is_file():  # a folder is written anew
                made[known] = path.read_bytes()
        return path

    return make


@pytest.fixture(scope="session")
def tiny_file(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline as one file. Don't write into it."""
    from pipelines.bases.source import open_source
    from pipelines.bases.writing import write_base

    path = tmp_path_factory.mktemp("file") / "tiny one.safetensors"
    write_base(open_source(tiny_folder), path)
    return path
