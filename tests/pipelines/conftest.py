"""Fixtures of the tests of `pipelines`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipelines.base import Base


@pytest.fixture(scope="module")
def base_of(tiny_folders: dict[str, Path]) -> Callable[[str], Base]:
    """The tiny pipelines by family, loaded once: nothing here writes into them."""
    from pipelines.base import load_base

    loaded: dict[str, Base] = {}

    def get(family: str) -> Base:
        if family not in loaded:
            loaded[family] = load_base(tiny_folders[family], device="cpu")
        return loaded[family]

    return get
