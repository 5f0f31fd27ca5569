"""The loop as a whole, on the tiny pipeline."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainers.looking
import trainers.loop
from pipelines.base import Base
from pipelines.errors import BaseError, ConfigError, NotFinite, PictureError, StudioError
from pipelines.formats import read_adapter
from tests.tiny import weights_of
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.evidence.record import read_record
from trainers.loop import train
from trainers.run_folder import CHOICES_NAME
from trainers.stepping import Stepper

Make = Callable[..., TrainConfig]


def run(config: TrainConfig, **more: Any) -> list[TrainEvent]:
    return list(train(config, **more))


def losses(events: list[TrainEvent]) -> list[float]:
    return [event.data["loss"] for event in events if event.kind == "step"]


def sha256(events: list[TrainEvent]) -> str:
    assert events[-1].kind == "done"
    return str(events[-1].data["sha256"])


@pytest.fixture
def shared_base(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> Base:
    """Have the loop train inside `tiny_base`, so that a test can look into it."""
    monkeypatch.setattr(trainers.loop, "load_base", lambda *_, **__: tiny_base)
    return tiny_base


def test_a_run_says_what_happens_and_leaves_what_it_says(make_config: Make) -> None:
    config = make_config(preview_every=2, preview_prompts=("a zuv disc", "a fox"))
    events = run(config)
    kinds = [event.kind for event in events]
    assert [event.step for event in events if event.kind == "step"] == [1, 2, 3, 4]
    assert [event.step for event in events if event.kind == "held_out"] == [0, 2, 4]
    assert [event.step for event in events if event.kind == "checkpoint"] == [2, 4]
    assert kinds[-1] == "done" and {event.total for event in events} == {4}
    for event in events:
        json.dumps(event.as_dict(), allow_nan=False)
        assert "\n" not in event.message
    folder = config.run.output
    previews = [event.data for event in events if event.kind == "preview"]
    assert len(previews) == 3 and previews[0]["prompts"] == ["a zuv disc", "a fox"]
    assert all((folder / file).is_file() for data in previews for file in data["files"])
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "checkpoints", "previews", "adapter.safetensors", "candidates", "evidence",
        "evidence.json",
    }  # fmt: skip
    assert TrainConfig.model_validate_json((folder / "config.json").read_text()) == config
    step = next(event for event in events if event.kind == "step").data
    assert set(step) == {
        "loss", "instance_loss", "prior_loss", "learning_rate", "gradient_norm", "seconds", "memory_bytes"
    }  # fmt: skip
    assert math.isclose(step["loss"], step["instance_loss"] + step["prior_loss"], rel_tol=1e-5)


def test_the_adapter_is_what_the_config_asked_for(make_config: Make, tiny_base: Base) -> None:
    config = make_config(rank=3, alpha=6.0, text_targets="attention+mlp", name="My disc")
    events = run(config)
    adapter = read_adapter(config.run.output / "adapter.safetensors")
    adapter.check(tiny_base)
    assert (adapter.name, adapter.triggers, adapter.rank, adapter.sha256) == (
        "My disc", ("zuv",), 3, sha256(events)
    )  # fmt: skip
    assert {factor.alpha for factor in adapter.factors.values()} == {6.0}
    assert any(name.endswith("mlp.fc1") for name in adapter.factors)
    assert any(factor.parts["up"].abs().max() > 0 for factor in adapter.factors.values())
    written = (config.run.output / "adapter.safetensors").read_bytes()
    assert str(config.run.output).encode() not in written
    assert json.loads(adapter.metadata["training"])["run"]["steps"] == 4


def test_only_the_adapter_changes_and_the_base_comes_back(make_config: Make, shared_base: Base) -> None:
    before, names = weights_of(shared_base), list(shared_base.modules())
    run(make_config())
    assert list(shared_base.modules()) == names
    assert all(torch.equal(value, before[name]) for name, value in weights_of(shared_base).items())


def test_the_same_config_gives_the_same_file(make_config: Make, tmp_path: Path) -> None:
    first = run(make_config(output=tmp_path / "a"))
    second = run(make_config(output=tmp_path / "b"))
    assert losses(first) == losses(second) and sha256(first) == sha256(second)
    assert sha256(run(make_config(output=tmp_path / "c", seed=1))) != sha256(first)


def test_the_loss_falls_on_one_batch(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, pictures: Path
) -> None:
    """With the batch held fixed there is nothing but the adapter to explain a falling loss."""
    kept: list[Any] = []
    real = trainers.loop.draw_step

    def once(*arguments: Any) -> Any:
        kept.append(kept[0] if kept else real(*arguments))
        return kept[-1]

    monkeypatch.setattr(trainers.loop, "draw_step", once)
    config = make_config(
        steps=24, learning_rate=1e-2, schedule="constant", warmup_steps=0, unet_targets="all", rank=8,
        evaluate_every=0, checkpoint_every=24, prior_weight=0,
    )  # fmt: skip
    found = losses(run(config))
    assert sum(found[-5:]) < 0.9 * sum(found[:5])


def test_weight_zero_of_the_prior_is_no_prior(make_config: Make, tmp_path: Path) -> None:
    events = run(make_config(prior_weight=0))
    assert not (tmp_path / "cache" / "class_pictures").exists()
    assert "prior_loss" not in next(event for event in events if event.kind == "step").data

    # A prior that weighs next to nothing gives the same steps, to within its weight.
    light = run(make_config(prior_weight=1e-9, output=tmp_path / "light"))
    assert losses(light) == pytest.approx(losses(events), rel=1e-4)
    heavy = run(make_config(prior_weight=1.0, prior_target="picture", output=tmp_path / "heavy"))
    assert losses(heavy)[0] != pytest.approx(losses(events)[0], rel=1e-2)


def test_the_prior_pulls_only_where_the_adapter_has_moved(make_config: Make, tmp_path: Path) -> None:
    """A fresh adapter is the base, so keeping the base costs nothing at first, and something later."""
    kept = [e.data["prior_loss"] for e in run(make_config(learning_rate=0.05)) if e.kind == "step"]
    assert kept[0] < 1e-9 < 1e-6 < kept[-1]
    config = make_config(prior_target="picture", output=tmp_path / "picture")
    assert next(e.data["prior_loss"] for e in run(config) if e.kind == "step") > 0.1


def test_without_text_targets_the_text_encoder_stays(make_config: Make) -> None:
    config = make_config(text_targets="none")
    run(config)
    assert read_adapter(config.run.output / "adapter.safetensors").components == ("unet",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weighting", "min_snr"),
        ("prior_target", "picture"),
        ("prior_batch_size", 1),
        ("noise_offset", 0.3),
        ("schedule", "constant"),
        ("weight_decay", 1.0),
        ("text_learning_rate", 0.1),
        ("max_grad_norm", 1e-3),
        ("warmup_steps", 0),
        ("flip", True),
        ("batch_size", 3),
        ("prior_breadth", 1.0),
        ("captions", "prompt"),
        ("resolution", 24),
        ("center_crop", False),
    ],
)
def test_every_setting_changes_what_is_learned(
    make_config: Make, pictures: Path, tmp_path: Path, field: str, value: Any
) -> None:
    (pictures / "00.txt").write_text("zuv here")
    if field == "center_crop":
        from PIL import Image

        Image.open(pictures / "00.png").resize((60, 24)).save(pictures / "00.png")
    plain = run(make_config(evaluate_every=0))
    changed = run(make_config(evaluate_every=0, output=tmp_path / "changed", **{field: value}))
    assert sha256(plain) != sha256(changed)
    same_settings = read_adapter(tmp_path / "changed" / "adapter.safetensors")
    other = read_adapter(make_config().run.output / "adapter.safetensors")
    assert any(
        not torch.equal(same_settings.factors[name].parts["up"], other.factors[name].parts["up"])
        for name in other.factors
    )


def test_snr_gamma_matters_under_min_snr(make_config: Make, tmp_path: Path) -> None:
    first = run(make_config(weighting="min_snr", snr_gamma=5.0))
    second = run(make_config(weighting="min_snr", snr_gamma=0.5, output=tmp_path / "second"))
    assert losses(first) != losses(second)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"instance_images": "nowhere"}, PictureError, "isn't a folder"),
        ({"base": "nowhere"}, BaseError, "nowhere"),
        ({"held_out": 5}, ConfigError, "held_out"),
        ({"resolution": 18}, ConfigError, "expected a multiple of 4; use 16"),
        ({"device": "quantum"}, ConfigError, "quantum"),
        ({"initialisation": "pissa", "unet_targets": "attention+ff"}, ConfigError, "is a convolution"),
    ],
)
def test_refusals_write_nothing(
    make_config: Make, tmp_path: Path, fields: dict[str, Any], error: type[StudioError], words: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error) as caught:
        run(make_config(**fields))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unreadable_picture_is_named_and_nothing_is_written(
    make_config: Make, tmp_path: Path, pictures: Path
) -> None:
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n....")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PictureError, match=r"bad\.png"):
        run(make_config())
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_is_a_file_is_refused(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        run(make_config(output=tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_said_before_anything_is_written(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.room.SLACK_BYTES", 10**18)
    with pytest.raises(StudioError, match="MB free"):
        run(make_config())
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_sound(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, steps = trainers.loop.sample_losses, iter(range(100))

    def broken(*arguments: Any) -> torch.Tensor:
        found = real(*arguments)
        return found * math.nan if next(steps) == 3 else found

    config = make_config(evaluate_every=0, schedule="constant", warmup_steps=0)
    with monkeypatch.context() as patch:
        patch.setattr(trainers.loop, "sample_losses", broken)
        with pytest.raises(
            StudioError, match=r"isn't finite at step 4 \(kept: the checkpoint at step 2 and the a"
        ):
            run(config)
    assert [path.name for path in (config.run.output / "checkpoints").iterdir()] == ["step-000002"]
    assert not (config.run.output / "adapter.safetensors").exists()
    kept = read_adapter(config.run.output / "last-finite.safetensors")
    whole = make_config(
        evaluate_every=0, schedule="constant", warmup_steps=0, steps=3, output=tmp_path / "whole"
    )
    run(whole)
    three = read_adapter(whole.run.output / "adapter.safetensors")
    for name, factors in three.factors.items():
        assert torch.equal(factors.parts["up"], kept.factors[name].parts["up"]), name
    run(config, resume=False)
    assert not (config.run.output / "last-finite.safetensors").exists()


def test_numbers_that_break_in_an_update_are_never_saved(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients of the step are sound, and the next step would notice only after the checkpoint."""
    real, steps = Stepper.take, iter(range(1, 100))

    def take(self: Stepper, losses: torch.Tensor) -> torch.Tensor:
        found = real(self, losses)
        if next(steps) == 4:
            next(iter(self._injection.parameters.values())).data.view(-1)[0] = math.inf
        return found

    monkeypatch.setattr(Stepper, "take", take)
    config = make_config(evaluate_every=0, steps=6)
    with pytest.raises(NotFinite, match=r"aren't finite at step 4 \(kept: the checkpoint at step 2\)"):
        run(config)
    assert [path.name for path in (config.run.output / "checkpoints").iterdir()] == ["step-000002"]
    record = read_record(config.run.output)
    assert record is not None and record.onset is not None and record.onset.phase == "update"


def test_a_preview_that_fails_is_a_warning(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(trainers.looking, "draw_previews", broken)
    events = run(make_config(preview_every=2))
    warnings = [event for event in events if event.kind == "warning" and "preview failed" in event.message]
    assert len(warnings) == 3 and "no room" in warnings[0].message
    assert events[-1].kind == "done"


def test_previews_and_measures_change_nothing_of_what_is_learned(make_config: Make, tmp_path: Path) -> None:
    busy = run(make_config(preview_every=1, evaluate_every=1, checkpoint_every=1))
    quiet = run(make_config(preview_every=0, evaluate_every=0, checkpoint_every=4, output=tmp_path / "quiet"))
    assert losses(busy) == losses(quiet)


def until(events: Iterator[TrainEvent], kind: str, step: int) -> None:
    for event in events:
        if event.kind == kind and event.step == step:
            return


def test_closing_commits_and_going_on_ends_the_same(make_config: Make, tmp_path: Path) -> None:
    whole = run(make_config(output=tmp_path / "whole"))
    stopped = train(make_config())
    until(stopped, "step", 3)
    stopped.close()
    assert (tmp_path / "run" / "checkpoints" / "step-000003").is_dir()
    resumed = run(make_config())
    assert "going on from step 3" in [event.message for event in resumed]
    assert losses(resumed) == losses(whole)[3:] and sha256(resumed) == sha256(whole)


def test_a_finished_run_is_finished_again_without_a_step(make_config: Make) -> None:
    first, second = run(make_config()), run(make_config())
    assert losses(second) == [] and sha256(second) == sha256(first)


def test_going_on_may_move_the_pictures_and_change_the_threads(
    make_config: Make, pictures: Path, tmp_path: Path
) -> None:
    run(make_config())
    pictures.rename(tmp_path / "moved")
    assert losses(run(make_config(instance_images=tmp_path / "moved", threads=2))) == []


def test_another_config_in_the_same_folder_is_refused(make_config: Make) -> None:
    run(make_config())
    with pytest.raises(ConfigError, match=r"adapter\.rank was 2, now 4"):
        run(make_config(rank=4))
    assert sha256(run(make_config(rank=4), resume=False)) == sha256(run(make_config(rank=4)))


def test_changed_pictures_are_not_gone_on_with(make_config: Make, pictures: Path) -> None:
    run(make_config())
    (pictures / "00.txt").write_text("a zuv disc, changed")
    with pytest.raises(ConfigError, match="pictures or captions have changed"):
        run(make_config())


def test_starting_afresh_removes_only_what_a_run_writes(make_config: Make) -> None:
    config = make_config()
    run(config)
    (config.run.output / "mine.txt").write_text("keep")
    (config.run.output / CHOICES_NAME).write_text("{}")
    again = run(config, resume=False)
    assert len(losses(again)) == 4
    assert (config.run.output / "mine.txt").read_text() == "keep"
    assert not (config.run.output / CHOICES_NAME).exists()  # which is written for larger bases only


def test_a_damaged_checkpoint_is_passed_over(make_config: Make, tmp_path: Path) -> None:
    whole = run(make_config(output=tmp_path / "whole"))
    run(make_config())
    (tmp_path / "run" / "checkpoints" / "step-000004" / "optimizer.safetensors").write_bytes(b"rot")
    resumed = run(make_config())
    assert any("step-000004 is damaged" in event.message for event in resumed if event.kind == "warning")
    assert losses(resumed) == losses(whole)[2:] and sha256(resumed) == sha256(whole)


def test_threads_are_given_back(make_config: Make) -> None:
    before = torch.get_num_threads()
    events = train(make_config(threads=before + 1))
    next(events)
    assert torch.get_num_threads() == before + 1
    events.close()
    assert torch.get_num_threads() == before


def test_captions_are_written_before_anything_is_learned(
    make_config: Make, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def captioner(name: str, device: str | None) -> Any:
        asked.append(name)
        return lambda picture: f"a zuv {picture.getpixel((0, 0))[0]}"

    monkeypatch.setattr("trainers.captioning.load_captioner", captioner)
    (pictures / "00.txt").write_text("my own zuv")
    events = run(make_config(captioner="some/model", add_trigger=True, output=tmp_path / "first"))
    assert asked == ["some/model"]
    assert (pictures / "00.txt").read_text() == "my own zuv"
    assert "zuv 0" in (pictures / "01.txt").read_text()
    done = read_adapter(tmp_path / "first" / "adapter.safetensors")
    assert json.loads(done.metadata["training"])["data"]["captioner"] == "model"
    again = run(make_config(add_trigger=True, output=tmp_path / "second"))
    assert losses(again) == losses(events), "written captions are captions like any other"


def test_a_word_is_measured_against_the_base_and_stands_in_some_caption(
    make_config: Make, tmp_path: Path
) -> None:
    def first(method: str) -> float:
        config = make_config(
            method=method, rank=8, alpha=8.0, output=tmp_path / method, prior_weight=0, steps=1
        )
        return next(e.data["loss"] for e in run(config) if e.kind == "held_out")

    assert first("textual_inversion") == first("lora"), "step 0 is the base itself"
    with pytest.raises(ConfigError, match="no caption holds 'zuv' as a word"):
        run(
            make_config(
                method="textual_inversion",
                rank=8,
                alpha=8.0,
                instance_prompt="zuvs",
                output=tmp_path / "none",
            )
        )
    assert not (tmp_path / "none").exists()


def test_norms_do_not_learn_with_channels_last_on_a_cpu(make_config: Make) -> None:
    fields: dict[str, Any] = {"method": "ln_tuning", "rank": 8, "alpha": 8.0, "text_targets": "none"}
    with pytest.raises(ConfigError, match=r"run\.channels_last"):
        next(train(make_config(**fields, unet_targets="all", channels_last=True)))
