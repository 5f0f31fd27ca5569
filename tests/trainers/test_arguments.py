"""The command line as a config: what each way of saying a setting comes to, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError
from trainers.arguments import config_of, parser
from trainers.config import TrainConfig, load_config, preset_config
from trainers.presets import PRESETS


def asked(*said: str) -> TrainConfig:
    """The config of a command line with pictures and a trigger."""
    usual = ["--pictures", "pics", "--trigger", "zib"]
    return config_of(parser("x").parse_args([*usual, *said]))


def value(config: TrainConfig, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(config, section), name)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("run.name=12", "12"),
        ("run.name=2024-01-01", "2024-01-01"),
        ('run.name="a = b"', "a = b"),
        ("run.listeners=wandb", ("wandb",)),
        ("run.preview_prompts=a zib, sleeping", ("a zib, sleeping",)),
        ("run.preview_prompts=", ()),
        ("run.preview_seeds=3", (3,)),
        ("run.preview_seeds=[3, 4]", (3, 4)),
        ("adapter.block_ranks=down_blocks.1=16", ("down_blocks.1=16",)),
        ("optimizer.learning_rate=3e-4", 3e-4),
        ("optimizer.learning_rate=", None),
        ("run.channels_last=true", True),
        ("run.precision=", None),
        ("run.precision=bf16", "bf16"),
        ("data.flip=yes", True),
        ("data.class_images=", None),
    ],
)
def test_a_value_is_read_as_its_setting_is_meant(said: str, expected: Any) -> None:
    assert value(asked("--set", said), said.partition("=")[0]) == expected


@pytest.mark.parametrize("folder", ["123", "2024-01-01", "true", "o ut"])
def test_a_folder_may_have_any_name(folder: str) -> None:
    assert asked("--set", f"run.output={folder}").run.output == Path.cwd() / folder


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("run.output=~nobody-is-called-so/x", "there is no such user"),
        ("run.vae=~nobody-is-called-so/x", "there is no such user"),
        ("run.base=a\0b", "expected a path in UTF-8"),
        ("run.output=\udcff", "expected a path in UTF-8"),
        ("run.output=", "setting 'run.output' is missing"),
        ("run.base=", "expected at least 1 character"),
        ("run.steps=", "run.steps: got '', expected a whole number"),
        ("run.steps=10.5", "got 10.5, expected a whole number"),
        ("optimizer.learning_rate=none", "got 'none', expected a number"),
        ("data.flip=maybe", "got 'maybe', expected true or false"),
        ("data.steps=3", "unknown setting 'data.steps'; did you mean 'run.steps'?"),
        ("run.name=" + "a" * 101, "expected at most 100 characters"),
    ],
)
def test_what_cannot_be_is_refused_in_plain_words(said: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        asked("--set", said)
    assert words in str(refused.value) and "pathlib" not in str(refused.value)


def test_a_base_of_an_endless_name_is_a_name() -> None:
    assert asked("--base", "a" * 300).run.base == "a" * 300


def test_a_size_leaves_the_preset_that_goes_without_saying() -> None:
    assert (
        asked("--size", "aggressive").run.steps == PRESETS["sketch", "subject"]["steps"] == asked().run.steps
    )


@pytest.mark.parametrize("method", ["textual_inversion", "prefix"])
def test_a_preset_chooses_no_layers_for_a_method_without(method: str) -> None:
    said = ("--kind", "style", "--set", f"adapter.method={method}")
    assert asked(*said).adapter.unet_targets == "attention"
    fields: Any = {"instance_images": "p", "trigger": "x", "instance_prompt": "x", "output": "o"}
    assert preset_config("sketch", "style", **fields, method=method).adapter.method == method
    with pytest.raises(ConfigError, match="unet_targets: means nothing"):
        asked(*said, "--set", "unet_targets=all")


def test_a_file_says_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is started again from another folder goes on: its config is the same."""
    (tmp_path / "a" / "base").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    lines = '[data]\ninstance_images = "p"\ntrigger = "x"\ninstance_prompt = "x"\n'
    (tmp_path / "a" / "run.toml").write_text(f'{lines}[run]\noutput = "out"\nbase = "base"\n')
    before = load_config("a/run.toml")
    assert before.run.base == str(tmp_path / "a" / "base") and before.run.output == tmp_path / "a" / "out"
    monkeypatch.chdir(tmp_path / "a")
    assert load_config("run.toml") == before
    monkeypatch.chdir(tmp_path / "b")
    assert load_config("../a/run.toml") == before


def test_a_base_on_the_command_line_is_looked_for_where_it_is_given(tmp_path: Path) -> None:
    for folder in ("a/mine", "mine"):
        (tmp_path / folder).mkdir(parents=True)
    lines = '[data]\ninstance_images = "p"\ntrigger = "x"\ninstance_prompt = "x"\n[run]\noutput = "out"\n'
    (tmp_path / "a" / "run.toml").write_text(lines)
    read = config_of(parser("x").parse_args(["a/run.toml", "--base", "mine"]))
    assert read.run.base == str(tmp_path / "mine")


def test_the_config_of_a_run_is_read_back(tmp_path: Path) -> None:
    config = asked("--set", "optimizer.learning_rate=1e-3", "--set", "run.preview_seeds=[1, 2]")
    (tmp_path / "config.json").write_text(config.as_json())
    assert config_of(parser("x").parse_args(["config.json"])) == config
    for text, words in (("{", "isn't JSON"), ("[]", "isn't an object"), ("[" * 100_000, "isn't JSON")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_config("config.json")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (("text_targets=none", "text_learning_rate=1e-4"), "text_learning_rate: no text encoder learns"),
        (("adapter.method=bitfit", "text_targets=none", "text_learning_rate=1e-4"), "no text encoder learns"),
        (("adapter.method=textual_inversion", "learning_rate=1e-4"), "set adapter.token_learning_rate"),
        (("adapter.method=textual_inversion", "caption_dropout=1"), "learns from captions alone; lower it"),
        (("prior_weight=0", "prior_target=picture"), "prior_target: class pictures are left out"),
    ],
)
def test_what_one_section_leaves_without_effect_is_refused(said: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        asked(*(part for one in said for part in ("--set", one)))


def test_an_optimizer_that_finds_its_rate_goes_with_a_word() -> None:
    said = ("--set", "adapter.method=textual_inversion", "--set", "optimizer.optimizer=prodigy")
    assert asked(*said).optimizer.learning_rate == 1.0


@pytest.mark.parametrize("kind", ['["subject"]', "3"])
def test_a_kind_that_is_no_text_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f'preset = "sketch"\n[data]\nkind = {kind}\n')
    with pytest.raises(ConfigError, match=r"data\.kind: got"):
        load_config("run.toml")


@pytest.mark.parametrize("method", ["vera", "oft", "bottleneck"])
def test_a_size_goes_with_a_method_that_has_no_alpha(method: str) -> None:
    size = ("--size", "aggressive", "--set", f"adapter.method={method}")
    assert (asked(*size).adapter.rank, asked(*size).adapter.alpha) == (32, 8.0)
    with pytest.raises(ConfigError, match="alpha: means nothing"):
        asked(*size, "--set", "alpha=3")


def test_a_size_is_refused_by_its_name_where_there_is_no_rank() -> None:
    with pytest.raises(ConfigError, match=r"preset\.size: IA³ has no rank; leave the size out"):
        asked("--size", "conservative", "--set", "adapter.method=ia3")
