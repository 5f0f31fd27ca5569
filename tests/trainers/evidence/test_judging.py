"""Any adapter, measured afterwards: the same figures as while it was learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.base import Base, load_base
from pipelines.errors import AdapterError, StudioError
from pipelines.formats import read_adapter
from tests.pipelines.making import modules_for, random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, weights_of
from trainers.config import TrainConfig
from trainers.evidence.case import Asked, Case, case_of, case_of_run
from trainers.evidence.judging import judge_adapter
from trainers.evidence.record import RECORD_NAME, SETS, read_record
from trainers.loop import train

FILES = ("evidence.json", "evidence.png", "report.html")


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder, device="cpu")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIGMENT_CACHE", str(tmp_path / "cache"))


def _numpy() -> list[int]:
    """The state of numpy's generator."""
    state: Any = np.random.get_state()
    return list(state[1])


def test_an_adapter_alone_has_an_anatomy(tmp_path: Path, base: Base) -> None:
    case = Case(adapter=random_adapter(base, rank=4), out=tmp_path / "out")
    record = judge_adapter(case, None)
    assert record.anatomy is not None
    assert record.anatomy.rank == 4
    assert (record.measured, record.drawn, record.verdict) == ((), None, ())
    assert read_record(case.out) == record
    assert all((case.out / name).stat().st_size > 100 for name in FILES)


def test_what_doesn_t_fit_is_refused_and_the_base_left_alone(tmp_path: Path, base: Base) -> None:
    dora = random_adapter_of(base, "dora", modules_for(base, "dora")[:1])
    with pytest.raises(AdapterError, match="give a base"):
        judge_adapter(Case(adapter=dora, out=tmp_path / "out"), None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudioError, match="choose another folder"):
        judge_adapter(Case(adapter=random_adapter(base), out=tmp_path / "file" / "out"), None)


@pytest.mark.usefixtures("own_cache")
def test_a_run_and_what_is_judged_afterwards_agree(
    tmp_path: Path, base: Base, pictures: Path, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(
        candidates=4,
        take="last",
        measured_on=tuple(SETS),
        class_samples=1,
        cache=tmp_path / "cache",
        learning_rate=0.02,
    )
    list(train(config))
    known = read_record(config.run.output)
    assert known is not None
    candidate = read_adapter(config.run.output / "candidates" / "step-000002.safetensors")
    asked = Asked(pictures=pictures, samples=1)
    before, chance = weights_of(base), (torch.get_rng_state(), _numpy())
    stale = tmp_path / "out" / "evidence" / "drawn-09.png"
    stale.parent.mkdir(parents=True)
    stale.touch()

    alone = case_of(candidate, asked, tmp_path / "out")
    record = judge_adapter(replace(alone, config=_small(alone)), base)
    ours, theirs = ({one.step: one for one in found.measured} for found in (record, known))
    assert list(ours) == [0, 2]
    assert list(ours[2].losses) == ["held_out", "teaching", "altered", "plain", "class"]
    for name, loss in theirs[2].losses.items():
        assert ours[0].losses[name].mean == pytest.approx(theirs[0].losses[name].mean, rel=1e-5)
        assert ours[2].losses[name].mean == pytest.approx(loss.mean, rel=1e-3)  # candidates are in fp16
        assert ours[2].moved[name] == pytest.approx(theirs[2].moved[name], rel=0.02)
    assert ours[2].losses["teaching"].mean != ours[0].losses["teaching"].mean
    assert record.config["optimizer"]["learning_rate"] == 0.02
    assert (record.run["pictures"], record.run["held_out"], record.run["steps"]) == (4, 1, 2)
    assert record.drawn is not None
    assert record.memorisation is not None
    assert not stale.exists()
    kept = {pair.nearest for pair in record.memorisation.pairs}
    assert all((tmp_path / "out" / "evidence" / name).is_file() for name in kept)
    assert_unchanged(base, before)
    assert base.holder is None
    assert torch.equal(torch.get_rng_state(), chance[0])
    assert _numpy() == chance[1]

    # Of a run whose evidence.json is damaged all is there again but what was drawn.
    (config.run.output / RECORD_NAME).write_text("{")
    again = case_of_run(
        read_adapter(config.run.output / "adapter.safetensors"), config.run.output, Asked(), config.run.output
    )
    mended = judge_adapter(again, base)
    assert mended.measured == known.measured
    assert mended.curve == known.curve
    assert mended.anatomy == known.anatomy
    assert mended.config == known.config
    assert json.loads((config.run.output / RECORD_NAME).read_text())["choice"] is not None
    assert (config.run.output / "candidates" / "step-000002.safetensors").is_file()


def _small(case: Case) -> TrainConfig:
    """The case's config with pictures as few as the run had."""
    assert case.config is not None
    evidence = case.config.evidence.model_copy(
        update={"class_samples": 1, "evidence_prompts": ("a zuv disc",)}
    )
    return case.config.model_copy(update={"evidence": evidence})
