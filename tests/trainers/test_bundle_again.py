"""A run made again from its bundle: what is refused before it, what is held against it while it runs."""

from __future__ import annotations

import json
from collections.abc import Generator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from pipelines.errors import ConfigError, StudioError
from pipelines.files import file_sha256
from pipelines.formats.container import data_sha256, read_header
from tests.trainers.bundled import made_up
from trainers import bundle_differences
from trainers.__main__ import main
from trainers.arguments import config_of, parser
from trainers.bundle_again import Again, opened
from trainers.bundle_format import Bundle
from trainers.config import TrainConfig, preset_config
from trainers.events import TrainEvent
from trainers.run_folder import ADAPTER_NAME, CHOICES_NAME

DRAWN = {"name": "key/000.png", "sha256": sha256(b"drawn").hexdigest()}


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """The config of a run that is to be made again in `tmp_path`."""
    return preset_config(
        "sketch", "subject", instance_images=tmp_path / "pictures", trigger="zuv", output=tmp_path / "run",
        instance_prompt="a zuv disc", cache=tmp_path / "cache",
    )  # fmt: skip


@pytest.fixture
def bundle(config: TrainConfig, tmp_path: Path) -> Bundle:
    """The bundle of that run, whose adapter and class picture are there, as if it had been made again."""
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / ADAPTER_NAME
    save_file({"lora_unet_x.alpha": np.ones(1, np.float16)}, path, {"ss_tag": "x"})
    drawn = tmp_path / "cache" / "class_pictures" / DRAWN["name"]
    drawn.parent.mkdir(parents=True)
    drawn.write_bytes(b"drawn")
    made = {
        "sha256": file_sha256(path), "tensors_sha256": data_sha256(path, read_header(path).data_start),
        "bytes": path.stat().st_size, "step": 4,
    }  # fmt: skip
    some = "0" * 64
    data = {
        "sha256": some,
        "pictures": [{"name": "a.png", "sha256": some, "caption": some}],
        "drawn": [DRAWN],
    }
    return made_up(made=made, data=data)


def events(*stages: str) -> Generator[TrainEvent, None, None]:
    """A run of no steps."""
    for stage in stages:
        yield TrainEvent(kind="stage", total=4, data={"stage": stage})
    yield TrainEvent(kind="done", step=4, total=4)


def test_all_that_is_missing_is_said_at_once_and_nothing_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"instance_prompt": "a zuv disc", "trigger": "zuv"}
    lost = made_up(local=["run.base"], config={"data": data, "run": {"base": "some-base", "threads": 1}})
    Path("bundle.toml").write_text(lost.as_toml())
    assert main(["bundle.toml"]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("error: 2 things are missing or other than in the bundle")
    assert lines[0].startswith("  differs: base 'some-base' (SHA-256 000000000000…) isn't here; say where")
    assert lines[1].startswith("  differs: none of the bundle's pictures (1) is here; say where they are")
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle.toml"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["--preset", "standard"], "--preset has no effect with a bundle"),
        (["--set", "run.step=3"], "did you mean 'run.steps'"),
        (["--output", "."], "is the bundle's own run; choose another folder"),
    ],
)
def test_options_that_mean_nothing_beside_a_bundle_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: list[str],
    words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("bundle").mkdir()
    Path("bundle/bundle.toml").write_text(made_up().as_toml())
    assert main(["bundle/bundle.toml", *said]) == 2
    assert words in capsys.readouterr().err


def test_anyway_is_for_bundles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pictures", "p", "--trigger", "z", "--anyway"]) == 2
    assert "--anyway has no effect without a bundle" in capsys.readouterr().err


def test_class_pictures_that_come_out_otherwise_end_it_before_the_first_step(
    bundle: Bundle, config: TrainConfig, tmp_path: Path
) -> None:
    drawn = tmp_path / "cache" / "class_pictures" / DRAWN["name"]
    assert "bit for bit" in list(Again(bundle=bundle, config=config).held(events("inject")))[1].message
    drawn.write_bytes(b"otherwise")
    seen = []
    with pytest.raises(ConfigError, match=r"'key/000\.png' came out otherwise"):
        for event in Again(bundle=bundle, config=config).held(events("prepare", "inject", "learn")):
            seen.append(event.data["stage"])
    assert seen == ["prepare"]
    told = list(Again(bundle=bundle, config=config, anyway=True).held(events("inject")))
    assert [event.kind for event in told] == ["warning", "stage", "stage", "done"]
    drawn.unlink()
    with pytest.raises(ConfigError, match=r"'key/000\.png' was drawn under another name"):
        list(Again(bundle=bundle, config=config).held(events("inject")))


def test_another_file_is_an_error_that_says_what_differs(bundle: Bundle, config: TrainConfig) -> None:
    made = bundle.made.model_copy(update={"sha256": "0" * 64})
    other = bundle.model_copy(update={"made": made})
    told = list(Again(bundle=other, config=config).held(events()))
    assert "the same numbers" in told[0].message and told[-1].kind == "done"
    other = bundle.model_copy(
        update={"made": made.model_copy(update={"tensors_sha256": "0" * 64, "step": 8})}
    )
    own = config.run.output / "bundle" / "bundle.toml"
    own.parent.mkdir()
    now = made_up(environment={"threads": 99}, made=bundle.made.model_dump(mode="json"))
    own.write_text(now.as_toml())
    seen = []
    with pytest.raises(StudioError, match=r"another file .*threads is 99, the bundle's 1; .* of step 4, the"):
        for event in Again(bundle=other, config=config).held(events()):
            seen.append(event.kind)
    assert seen == ["done"]  # the run itself has ended well
    told = list(Again(bundle=other, config=config, anyway=True).held(events()))
    assert [event.kind for event in told] == ["warning", "done"]


def test_what_was_chosen_for_the_machine_is_kept(config: TrainConfig) -> None:
    again, path = Again(bundle=made_up(choices='{"key": 1}'), config=config), config.run.output / CHOICES_NAME
    assert again.ready(fresh=False) is False and path.read_text() == '{"key": 1}'
    path.write_text("of another run")
    assert again.ready(fresh=True) is False  # it has begun anew itself
    assert path.read_text() == '{"key": 1}'
    assert Again(bundle=made_up(), config=config).ready(fresh=True) is True


def test_threads_are_the_bundles_unless_a_trial_chose_them(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(bundle_differences, "before", lambda *given: [])
    one = made_up(environment={"threads": 5})
    Again(bundle=one, config=config).check()
    chosen = made_up(environment={"threads": 5}, choices=json.dumps({"choices": {"threads": 5}}))
    Again(bundle=chosen, config=config).check()  # out of as many as there are, so that the trial is the same
    assert asked == [5]
    said = [found.words for found in bundle_differences.environment(chosen, config)]
    assert not any(words.startswith("threads") for words in said)
    said = [found.words for found in bundle_differences.environment(one, config)]
    assert any(words.startswith("threads is ") for words in said)


def test_where_things_lie_is_not_the_bundles_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"instance_prompt": "a zuv disc", "trigger": "zuv", "instance_images": "/a", "class_images": "/b"}
    hostile = made_up(name="../../x", config={"data": data, "run": {"output": "/c", "cache": "/d"}})
    Path("bundle.toml").write_text(hostile.as_toml())
    asked = parser("x").parse_args(["bundle.toml"])
    assert opened(asked) == hostile
    found = config_of(asked)
    assert (found.data.instance_images, found.data.class_images) == (tmp_path / "pictures", None)
    assert (found.run.output, found.run.cache) == (tmp_path / "runs" / "------x-again", None)
