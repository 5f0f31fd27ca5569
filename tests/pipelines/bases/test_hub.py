"""Hub ids against a small hub on the loopback: whole, broken off, refused, and without any network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.bases import hub as hub_module
from pipelines.bases.hub import HubRef, Progress, fetch_base, hub_ref, local_base
from pipelines.errors import BaseError
from tests.pipelines.bases.hub_asking import TINY, UNET, fail, named
from tests.pipelines.bases.hub_server import COMMIT, Hub


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubRef("org/name")),
        ("org/na.me-2_x@v1", HubRef("org/na.me-2_x", None, "v1")),
        ("org/name@refs/pr/1", HubRef("org/name", None, "refs/pr/1")),
        ("org/name/sd xl_1.0.safetensors", HubRef("org/name", "sd xl_1.0.safetensors")),
        ("org/name/sub/a.safetensors@v1", HubRef("org/name", "sub/a.safetensors", "v1")),
        ("pocket", None),
        ("./org/name", None),
        ("/org/name", None),
        ("~/name", None),
        ("../name", None),
        ("org/../name", None),
        ("org/name/sub", None),
        ("org/name@../x", None),
        ("C:\\models\\x", None),
    ],
)
def test_which_texts_are_hub_ids(text: str, expected: HubRef | None) -> None:
    assert hub_ref(text) == expected
    if expected is not None:
        assert str(expected) == text


def test_a_pickle_of_a_repository_is_refused_by_name() -> None:
    with pytest.raises(BaseError, match=r"pickle file.*\.safetensors file of org/name"):
        hub_ref("org/name/model.ckpt")


def test_a_whole_pipeline_comes_with_progress_and_only_what_is_loaded(
    tiny_hub: Hub, tiny_folder: Path
) -> None:
    seen: list[Progress] = []
    folder = fetch_base(TINY, on_progress=seen.append)
    assert folder.name == COMMIT
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {path.relative_to(tiny_folder).as_posix() for path in tiny_folder.rglob("*") if path.is_file()}
    assert fetched == expected
    for name in expected:
        assert (folder / name).read_bytes() == (tiny_folder / name).read_bytes()
    assert sorted(tiny_hub.fetched()) == sorted(expected), "a file came twice, or one that isn't loaded"
    assert seen[-1].done == seen[-1].total == sum((tiny_folder / name).stat().st_size for name in expected)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert len({step.total for step in seen}) == 1, "the total changed on the way"


def test_a_fetched_pipeline_loads(tiny_hub: Hub, tiny_folder: Path) -> None:
    import torch

    from pipelines.base import load_base

    fetched, own = (load_base(path, device="cpu") for path in (fetch_base(TINY), tiny_folder))
    assert torch.equal(fetched.unet.conv_in.weight, own.unet.conv_in.weight)
    assert fetched.sha256 == own.sha256


def test_what_is_whole_here_needs_no_network(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_base(TINY)
    tiny_hub.asked.clear()
    assert fetch_base(TINY) == folder == local_base(TINY)
    assert fetch_base(named(f"org/tiny@{COMMIT}")) == folder
    assert not tiny_hub.asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_base(TINY) == folder


def test_offline_says_what_is_missing(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_base(TINY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (folder / UNET).unlink()
    assert "lacks unet" in fail(TINY) and "HF_HUB_OFFLINE" in fail(TINY)
    assert "isn't whole on this machine" in fail("org/other")


def test_a_line_that_breaks_is_taken_up_in_the_middle(tiny_hub: Hub, tiny_folder: Path) -> None:
    tiny_hub.break_at[UNET] = 5000
    folder = fetch_base(TINY)
    assert (folder / UNET).read_bytes() == (tiny_folder / UNET).read_bytes()
    ranges = [asked for method, path, asked, _ in tiny_hub.asked if method == "GET" and path.endswith(UNET)]
    assert ranges == ["", "bytes=5000-"]


def test_another_run_goes_on_where_the_last_one_stopped(tiny_hub: Hub, tiny_folder: Path) -> None:
    tiny_hub.break_at[UNET], tiny_hub.gone = 5000, True
    message = fail(TINY)
    assert "goes on where it stopped" in message and tiny_hub.address in message
    tiny_hub.gone = False
    tiny_hub.asked.clear()
    seen: list[Progress] = []
    folder = fetch_base(TINY, on_progress=seen.append)
    assert (folder / UNET).read_bytes() == (tiny_folder / UNET).read_bytes()
    ranges = [asked for method, path, asked, _ in tiny_hub.asked if method == "GET" and path.endswith(UNET)]
    assert ranges == ["bytes=5000-"]
    assert tiny_hub.fetched().count("model_index.json") == 0, "what was whole came again"
    assert not list(folder.parent.parent.rglob("*.incomplete"))


def test_a_callback_that_raises_stops_and_keeps_what_came(tiny_hub: Hub) -> None:
    class Enough(Exception):
        pass

    def stop(step: Progress) -> None:
        if step.file == UNET:
            raise Enough

    with pytest.raises(Enough):
        fetch_base(TINY, on_progress=stop)
    partial = list((hub_module.cache_folder()).rglob("*.incomplete"))
    assert len(partial) == 1 and partial[0].stat().st_size > 0
    assert local_base(TINY) is None
    assert local_base(TINY) is None and fetch_base(TINY).is_dir()


def test_a_hub_that_ignores_ranges_gives_the_file_anew(tiny_hub: Hub, tiny_folder: Path) -> None:
    tiny_hub.break_at[UNET], tiny_hub.ranges = 5000, False
    assert (fetch_base(TINY) / UNET).read_bytes() == (tiny_folder / UNET).read_bytes()


def test_damaged_bytes_are_never_kept(tiny_hub: Hub) -> None:
    tiny_hub.spoiled = {UNET}
    assert "damaged twice" in fail(TINY)
    assert local_base(TINY) is None
    tiny_hub.spoiled = set()
    assert fetch_base(TINY).is_dir()


def test_half_precision_takes_the_fp16_files(tiny_hub: Hub, tiny_folder: Path) -> None:
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        source = tiny_hub.folder / part / f"{stem}.safetensors"
        shutil.copy(source, source.with_name(f"{stem}.fp16.safetensors"))
    folder = fetch_base(TINY, half=True)
    weights = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
    assert weights == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_full_precision_leaves_the_fp16_files(tiny_hub: Hub) -> None:
    source = tiny_hub.folder / UNET
    shutil.copy(source, source.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert not list(fetch_base(TINY).rglob("*.fp16.*"))


def test_a_safety_checker_comes_where_the_base_brings_one(tiny_hub: Hub) -> None:
    index = tiny_hub.folder / "model_index.json"
    said = json.loads(index.read_text()) | {"safety_checker": ["stable_diffusion", "Checker"]}
    index.write_text(json.dumps(said))
    for name in ("safety_checker/config.json", "feature_extractor/preprocessor_config.json"):
        (tiny_hub.folder / name).parent.mkdir(exist_ok=True)
        (tiny_hub.folder / name).write_text("{}")
    folder = fetch_base(TINY)
    assert (folder / "safety_checker" / "model.safetensors").is_file()
    assert (folder / "feature_extractor" / "preprocessor_config.json").is_file()


def test_a_pickled_safety_checker_is_left(tiny_hub: Hub) -> None:
    index = tiny_hub.folder / "model_index.json"
    said = json.loads(index.read_text()) | {"safety_checker": ["stable_diffusion", "Checker"]}
    index.write_text(json.dumps(said))
    (tiny_hub.folder / "safety_checker" / "config.json").write_text("{}")
    checker = tiny_hub.folder / "safety_checker" / "model.safetensors"
    checker.rename(checker.with_suffix(".bin"))
    assert not (fetch_base(TINY) / "safety_checker").exists()


def test_one_file_of_a_repository(tiny_hub: Hub) -> None:
    (tiny_hub.folder / "sub").mkdir()
    shutil.copy(tiny_hub.folder / UNET, tiny_hub.folder / "sub" / "a b.safetensors")
    file = fetch_base(named("org/tiny/sub/a b.safetensors@v1"))
    assert file.read_bytes() == (tiny_hub.folder / UNET).read_bytes()
    assert tiny_hub.fetched() == ["sub/a b.safetensors"]
    tiny_hub.asked.clear()
    assert fetch_base(named("org/tiny/sub/a b.safetensors@v1")) == file and not tiny_hub.asked
    assert "did you mean 'sub/a b.safetensors'" in fail("org/tiny/sub/b.safetensors")


def test_a_repository_of_files_alone(tiny_hub: Hub, tmp_path: Path) -> None:
    weights = (tiny_hub.folder / UNET).read_bytes()
    tiny_hub.folder = tmp_path / "files"
    tiny_hub.folder.mkdir()
    (tiny_hub.folder / "one.safetensors").write_bytes(weights)
    assert fetch_base(TINY).read_bytes() == weights
    assert local_base(TINY) is not None
    (tiny_hub.folder / "two.safetensors").write_bytes(weights)
    assert "holds 2 .safetensors files" in fail("org/tiny@v1") and "org/tiny/one" in fail("org/tiny@v1")


def test_the_token_is_sent(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_base(TINY)
    assert {sent for method, _, _, sent in tiny_hub.asked} == {"Bearer hf_secret"}


def test_a_process_of_its_own(tiny_hub: Hub, tmp_path: Path) -> None:
    """With nothing patched: the environment alone, as at a user's."""
    program = "from pipelines.bases.hub import *; print(fetch_base(hub_ref('org/tiny')))"
    env = {key: value for key, value in os.environ.items() if not key.endswith("_OFFLINE")}
    env["HF_HOME"] = str(tmp_path / "another")
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "another")
    assert (Path(done.stdout.strip()) / UNET).is_file()
    assert not done.stderr, "the library's own bars or warnings reached the terminal"
