"""Evidence of whole runs: it changes nothing that is learned, survives a stop, and takes the best step."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainers.loop
from pipelines.base import load_base
from pipelines.errors import StudioError
from pipelines.formats import read_adapter
from pipelines.formats.container import data_sha256, read_header
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.evidence import choice, concluding
from trainers.evidence.record import SETS, read_record
from trainers.loop import train

Make = Callable[..., TrainConfig]
EVERYTHING: dict[str, Any] = {"measured_on": tuple(SETS), "samples": 1, "class_samples": 2, "report": True}
NOTHING: dict[str, Any] = {"evaluate_every": 0, "candidates": 0}


def losses(events: list[TrainEvent]) -> list[float]:
    return [event.data["loss"] for event in events if event.kind == "step"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensors(path: Path) -> str:
    """The hash of an adapter's numbers alone: its metadata have the settings, which differ."""
    return data_sha256(path, read_header(path).data_start)


def test_measuring_changes_nothing_that_is_learned(make_config: Make, tmp_path: Path) -> None:
    found = []
    for name, fields in (("all", EVERYTHING), ("none", NOTHING)):
        config = make_config(**fields, take="last", output=tmp_path / name, preview_every=2, dropout=0.1)
        events = list(train(config))
        found.append((losses(events), tensors(tmp_path / name / "adapter.safetensors")))
    assert found[0] == found[1]
    record = read_record(tmp_path / "all")
    assert record is not None and record.choice is not None
    assert set(record.measured[-1].losses) == set(SETS) and record.drawn is not None
    assert record.anatomy is not None and record.memorisation is not None and len(record.previews) == 3
    for name in ("evidence.png", "report.html", "bundle/bundle.toml"):
        assert (tmp_path / "all" / name).stat().st_size > 200, name
    assert read_record(tmp_path / "none") is not None, "what is made of the adapter is still told"


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first measured step come out best."""
    rule = choice.Rule(lambda record: {one.step: float(one.step or 99) for one in record.measured}, 0, "it")
    monkeypatch.setattr(choice, "RULES", {"made": rule})


@pytest.mark.usefixtures("rising")
def test_the_adapter_is_the_recommended_candidate_unless_the_last_is_asked_for(
    make_config: Make, tmp_path: Path
) -> None:
    done = {}
    for take in ("recommended", "last"):
        config = make_config(output=tmp_path / take, take=take)
        *_, last = train(config)
        done[take], adapter = last.data, tmp_path / take / "adapter.safetensors"
        assert last.data["sha256"] == sha256(adapter) and last.data["steps"] == 4
        assert read_adapter(adapter).metadata["steps"] == str(last.data["step"])
    assert (done["recommended"]["step"], done["last"]["step"]) == (2, 4)
    assert done["recommended"]["sha256"] == sha256(
        tmp_path / "recommended" / "candidates" / "step-000002.safetensors"
    )
    adapters = [tmp_path / name / "adapter.safetensors" for name in done]
    assert tensors(adapters[0]) != tensors(adapters[1])
    record = read_record(tmp_path / "last")
    assert record is not None and record.choice is not None and record.choice.step == 2


@pytest.mark.usefixtures("rising")
def test_a_run_ends_early_and_one_that_has_is_not_gone_on_with(make_config: Make) -> None:
    config = make_config(steps=20, stop_early=True, patience=2, checkpoint_every=20)
    events = list(train(config))
    assert len(losses(events)) == 6 and events[-1].data["steps"] == 6 and events[-1].data["step"] == 2
    again = list(train(config))
    assert losses(again) == [] and again[-1].data["sha256"] == events[-1].data["sha256"]


@pytest.mark.usefixtures("rising")
@pytest.mark.parametrize("stop", [("step", 3), ("checkpoint", 2), ("checkpoint", 4)])
def test_a_stopped_run_goes_on_with_what_it_had_measured(
    make_config: Make, tmp_path: Path, stop: tuple[str, int]
) -> None:
    """Also where it ended between a checkpoint and the look at its step."""
    whole = list(train(make_config(output=tmp_path / "whole")))
    config = make_config(output=tmp_path / "parts")
    first = train(config)
    for event in first:
        if (event.kind, event.step) == stop:
            break
    first.close()
    rest = list(train(config))
    assert rest[-1].data["sha256"] == whole[-1].data["sha256"] and rest[-1].data["step"] == 2
    records = [read_record(tmp_path / name) for name in ("whole", "parts")]
    assert records[0] is not None and records[1] is not None
    assert records[0].measured == records[1].measured and records[0].choice == records[1].choice


def test_what_cannot_be_measured_is_a_warning_and_the_rest_is(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setattr(concluding.Conclusion, "_pictures", broken)
    config = make_config()
    events = list(train(config))
    said = [event.message for event in events if event.kind == "warning"]
    assert "evidence: pictures left out (RuntimeError: out of luck)" in said
    record = read_record(config.run.output)
    assert events[-1].kind == "done" and record is not None and record.anatomy is not None


def test_a_full_disk_pauses_the_end_too(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = make_config()
    with monkeypatch.context() as patch:
        patch.setattr(concluding, "write_record", full)
        with pytest.raises(StudioError, match=r"^paused: disk full"):
            list(train(config))
    assert list(train(config))[-1].kind == "done" and read_record(config.run.output) is not None


def test_a_run_that_breaks_leaves_where_it_began(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config()
    base = load_base(config.run.base, device="cpu")
    monkeypatch.setattr(trainers.loop, "load_base", lambda *_, **__: base)
    broken = base.unet.mid_block.attentions[0].proj_in
    with pytest.raises(StudioError, match="loss isn't finite at step 3") as error:
        for event in train(config):
            if event.kind == "step" and event.step == 2:
                broken.bias.data[0] = float("inf")
    record = read_record(config.run.output)
    assert record is not None and record.onset is not None
    assert record.onset.step == 3 and record.onset.where in str(error.value)
    assert "mid_block.attentions.0" in record.onset.where
    assert [finding.rule for finding in record.verdict][:1] == ["not_finite"]
