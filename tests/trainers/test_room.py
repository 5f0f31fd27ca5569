"""Room on the disk: asked for before a run starts, by what it will write."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, StudioError
from trainers.config import TrainConfig
from trainers.room import SLACK_BYTES, cache_bytes, check_room, disk_full, pausing_when_full, run_bytes
from trainers.run_folder import open_run

Make = Callable[..., TrainConfig]
Usage = namedtuple("Usage", "total used free")


def test_the_bytes_are_those_of_checkpoints_previews_and_class_pictures(make_config: Make) -> None:
    """By hand: two checkpoints and the one being written, of 12 bytes a number, and 4 in the adapter."""
    config = make_config(preview_every=0, prior_weight=0.0, evaluate_every=0)
    assert run_bytes(config, 512, 1000) == 1000 * (3 * 12 + 4) and cache_bytes(config, 512) == 0
    candidates = make_config(preview_every=0, prior_weight=0.0, steps=9)  # measured at 0, 2, 4, 6, 8 and 9
    assert run_bytes(candidates, 512, 1000) == 1000 * (3 * 12 + 4 + 5 * 2)
    assert run_bytes(make_config(preview_every=0, candidates=3), 512, 10**10) == 10**10 * (3 * 12 + 4 + 2 * 2)
    kept = make_config(preview_every=0, keep_checkpoints=9, ema_decay=0.99, evaluate_every=0)
    assert run_bytes(kept, 512, 1000) == 1000 * (10 * 16 + 4)
    looks = make_config(steps=10, preview_every=4, preview_prompts=("a", "b", "c"), preview_seeds=(1, 2))
    # At the start, at 4, 8 and the end.
    assert run_bytes(looks, 64, 0) == int(4 * 6 * 64 * 64 * 3.1)
    assert cache_bytes(make_config(num_class_images=7), 64) == int(7 * 64 * 64 * 3.1)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config(preview_every=0, prior_weight=0.0, evaluate_every=0)
    free = SLACK_BYTES + 1000 * 40
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    check_room(config, 512, 1000)
    with pytest.raises(StudioError, match=r"disk has 200 MB free at .*, the run needs 1800 MB; make room"):
        check_room(config, 512, 40_000_000)
    free -= 1_000_000
    with pytest.raises(StudioError, match="make room"):
        open_run(config, resume=True, resolution=512)
    assert not (tmp_path / "run").exists()
    # A checkpoint that is there will make room for the next.
    (tmp_path / "run" / "checkpoints" / "step-000002").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-000002" / "adapter.safetensors").write_bytes(bytes(30_000))
    free = SLACK_BYTES + 1000 * 40 - 30_000
    check_room(config, 512, 1000)


def test_class_pictures_count_on_their_own_disk(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(preview_every=0, num_class_images=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, SLACK_BYTES + 10_000_000))
    check_room(config, 16)
    with pytest.raises(StudioError, match="the run needs 6702 MB"):
        check_room(config, 1024)


def test_a_full_disk_is_a_pause_and_other_errors_are_not() -> None:
    with pytest.raises(StudioError, match=r"^paused: disk full"), pausing_when_full():
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    assert disk_full(OSError(errno.EACCES, "Permission denied")) is None
    with pytest.raises(PermissionError), pausing_when_full():
        raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("said", ["'a.safetensors' can't be written", "paused: disk full at step 3"])
def test_a_full_disk_is_a_pause_in_whatever_words(said: str) -> None:
    with pytest.raises(StudioError, match=r"^paused: disk full") as raised, pausing_when_full():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise StudioError(said) from None
    assert ("step 3" in said) == (str(raised.value) == said)


def test_what_changes_no_result_may_change_between_two_starts(make_config: Make, tmp_path: Path) -> None:
    open_run(make_config(), resume=True)
    (tmp_path / "run" / "checkpoints" / "step-000002").mkdir(parents=True)
    open_run(make_config(preview_every=3, keep_checkpoints=5, gradient_checkpointing="all"), resume=True)
    with pytest.raises(ConfigError, match=r"run.accumulate was 1, now 2"):
        open_run(make_config(accumulate=2), resume=True)


def test_a_process_that_does_not_write_changes_nothing(make_config: Make, tmp_path: Path) -> None:
    assert open_run(make_config(), resume=False, writes=False) == tmp_path / "run"
    assert not (tmp_path / "run").exists()
    folder = open_run(make_config(), resume=True)
    (folder / "checkpoints" / "step-000002").mkdir(parents=True)
    open_run(make_config(), resume=False, writes=False)
    assert (folder / "config.json").exists() and (folder / "checkpoints" / "step-000002").exists()
    with pytest.raises(ConfigError, match=r"run.accumulate was 1, now 2"):
        open_run(make_config(accumulate=2), resume=True, writes=False)


def test_a_run_of_an_older_pigment_goes_on(make_config: Make, tmp_path: Path) -> None:
    folder = open_run(make_config(), resume=True)
    (folder / "checkpoints" / "step-000002").mkdir(parents=True)
    written = json.loads((folder / "config.json").read_text())
    for name in ("accumulate", "listeners", "mixed_precision"):
        del written["run"][name]
    (folder / "config.json").write_text(json.dumps(written))
    open_run(make_config(), resume=True)
    with pytest.raises(ConfigError, match=r"run.accumulate was 1, now 2"):
        open_run(make_config(accumulate=2), resume=True)


def test_less_than_a_megabyte_is_not_called_nothing(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.room.SLACK_BYTES", 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(1, 1, 0))
    with pytest.raises(StudioError, match=r"has 0 MB free at .*, the run needs 1 MB"):
        check_room(make_config(), 16)
