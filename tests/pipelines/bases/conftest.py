"""A hub on the loopback, and an environment that may ask it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.bases.hub_server import Hub, serving


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and an environment that allows the network, which the suite forbids."""
    from huggingface_hub import constants

    from pipelines.bases import transfer

    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "HUGGINGFACE_HUB_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it was read when the library was imported
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def tiny_hub(
    tiny_folder: Path, tmp_path: Path, online: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """A hub with a copy of the tiny pipeline, which a test may change."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "served"))
    for name in ("unet/diffusion_pytorch_model.bin", "README.md", "safety_checker/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not for us")
    with serving(Hub(folder)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub
