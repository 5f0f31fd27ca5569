"""What a hub refuses, and what is refused of a hub: one line that says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.bases import hub as hub_module
from pipelines.bases import transfer
from tests.pipelines.bases.hub_asking import TINY, UNET, fail
from tests.pipelines.bases.hub_server import Hub, serving


@pytest.mark.parametrize("index", [True, False])
def test_pickles_alone_are_refused_before_anything_large_comes(tiny_hub: Hub, index: bool) -> None:
    for path in tiny_hub.folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    if not index:
        (tiny_hub.folder / "model_index.json").unlink()
    message = fail(TINY)
    assert "pickles are never opened" in message and ".bin" in message
    assert tiny_hub.fetched() in ([], ["model_index.json"])


def test_other_pipelines_are_refused_before_anything_large_comes(tiny_hub: Hub) -> None:
    index = tiny_hub.folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))
    assert "is a FluxPipeline; supported: Stable Diffusion 1.x" in fail(TINY)
    assert tiny_hub.fetched() == ["model_index.json"]


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ((401, "GatedRepo"), "is gated: accept its terms"),
        ((403, "GatedRepo"), "is gated: accept its terms"),
        ((404, "RepoNotFound"), "no such folder"),
        ((401, ""), "refused base"),
        ((403, ""), "refused base"),
        ((503, ""), "answered 503"),
    ],
)
def test_refusals_say_what_to_do(tiny_hub: Hub, refusal: tuple[int, str], expected: str) -> None:
    tiny_hub.refusal = refusal
    message = fail(TINY)
    assert expected in message and tiny_hub.address in message and "give a folder" in message


def test_an_unknown_revision(tiny_hub: Hub) -> None:
    assert "no revision 'v9'" in fail("org/tiny@v9")


def test_no_network(online: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Hub(online)) as hub:  # a port on which nobody listens any more
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
    message = fail(TINY)
    assert f"no connection to {hub.address}" in message and message.endswith("or give a folder")


def test_a_disk_without_room_is_told_before(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tiny_hub.folder)._replace(free=hub_module.DISK_MARGIN + 10_000)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: usage)
    assert "make room" in fail(TINY)
    assert UNET not in tiny_hub.fetched()


def test_a_disk_that_fills_up_is_told(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.os, "fsync", full)
    assert "the disk is full" in fail(TINY)


def test_a_hostile_hub_names_no_paths(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.pipelines.bases.hub_server.digest_of", lambda data: "../../../out")
    assert "where a hash was expected" in fail(TINY)
