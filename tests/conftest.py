"""What all tests share: no network, and models to work on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipelines.base import Base

# Before any library is imported: a test that reaches for a hub fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SD 1.x pipeline in diffusers' layout, 16×16 pixels. Don't write into it."""
    from tests.tiny import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def tiny_base(tiny_folder: Path) -> Base:
    """The random pipeline, loaded anew for each test."""
    from pipelines.base import load_base

    return load_base(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random pipeline of every family, by its key in FAMILIES. Don't write into them."""
    from pipelines.families import FAMILIES
    from tests.tiny import save_tiny_pipeline

    root = tmp_path_factory.mktemp("families")
    return {
        family: tiny_folder if family == "sd15" else save_tiny_pipeline(root / family, family=family)
        for family in FAMILIES
    }


@pytest.fixture
def tiny_sd2(tiny_folders: dict[str, Path]) -> Base:
    """A random SD 2.x pipeline, loaded anew for each test."""
    from pipelines.base import load_base

    return load_base(tiny_folders["sd2"], device="cpu")


@pytest.fixture
def tiny_sdxl(tiny_folders: dict[str, Path]) -> Base:
    """A random SDXL pipeline, loaded anew for each test."""
    from pipelines.base import load_base

    return load_base(tiny_folders["sdxl"], device="cpu")


@pytest.fixture(scope="session")
def _loaded_pocket() -> Base:
    from pipelines.base import load_base

    return load_base("pocket", device="cpu")


@pytest.fixture
def pocket(_loaded_pocket: Base) -> Iterator[Base]:
    """The embedded base, loaded once; a test that leaves a mix in it fails."""
    yield _loaded_pocket
    assert _loaded_pocket.holder is None, "the test left adapters mixed into the embedded base"
