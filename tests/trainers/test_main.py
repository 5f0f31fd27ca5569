"""`python -m trainers`: what it prints, what it writes, how it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers import events
from trainers.__main__ import interruptions, main
from trainers.arguments import config_of, parser
from trainers.config import TrainConfig
from trainers.presets import PRESETS
from trainers.progress import Progress

Make = Callable[..., TrainConfig]


@pytest.fixture
def toml(make_config: Make, tmp_path: Path) -> Path:
    """The usual config as a TOML file."""
    lines = []
    for section, values in make_config().model_dump(mode="json").items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    return tmp_path / "run.toml"


def test_a_run_is_printed_and_logged(toml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(toml)]) == 0
    printed = capsys.readouterr().out.splitlines()
    done = next(line for line in printed if line.startswith("[4/4] adapter 'zuv' learned in 4 steps: "))
    assert done.endswith("adapter.safetensors")
    logged = list(events.read(tmp_path / "run"))
    assert [event.step for event in logged if event.kind == "step"] == [1, 2, 3, 4]
    assert logged[-1].kind == "done"


def test_events_as_json_are_the_log(toml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(toml), "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [event.as_dict() for event in events.read(tmp_path / "run")]


def test_running_again_goes_on_and_fresh_starts_anew(toml: Path, tmp_path: Path) -> None:
    assert main([str(toml)]) == 0
    assert main([str(toml)]) == 0
    kinds = [event.kind for event in events.read(tmp_path / "run")]
    assert kinds.count("done") == 2 and kinds.count("step") == 4
    assert main([str(toml), "--fresh"]) == 0
    kinds = [event.kind for event in events.read(tmp_path / "run")]
    assert kinds.count("done") == 1 and kinds.count("step") == 4


def test_ctrl_c_keeps_a_checkpoint(
    toml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path, event: events.TrainEvent) -> None:
        if event.kind == "step" and event.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(events, "append", interrupted)
    assert main([str(toml)]) == 130
    assert "run the same command to go on" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "step-000003").is_dir()


def test_what_is_wrong_is_one_line_and_exit_code_2(
    toml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    toml.write_text(toml.read_text().replace("[run]", "[run]\nspeed = 9"))
    assert main([str(toml)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: unknown setting 'run.speed'")
    assert shown.err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainers", str(tmp_path / "none.toml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "can't be read" in done.stderr
    assert "torch" not in done.stderr


def test_pictures_and_a_trigger_are_enough(pictures: Path, tmp_path: Path) -> None:
    said = ["--pictures", str(pictures), "--trigger", "zib", "--class", "owl", "--preset", "standard"]
    asked = config_of(parser("x").parse_args(said))
    assert asked.data.instance_images == pictures and asked.run.output == Path.cwd() / "runs" / "zib"
    assert (asked.data.instance_prompt, asked.data.class_prompt) == (
        "a photo of a zib owl",
        "a photo of an owl",
    )
    assert asked.run.steps == PRESETS["standard", "subject"]["steps"] and asked.run.base == "pocket"
    style = config_of(parser("x").parse_args([*said[:4], "--kind", "style"]))
    assert (style.data.instance_prompt, style.data.prior_weight) == ("a picture in zib style", 0.0)


def test_the_command_line_goes_before_the_file(toml: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    said = ["--set", "run.steps=9", "--set", "name=mine", "--set", 'preview_prompts=["a", "b"]']
    said += ["--output", "elsewhere", "--set", "learning_rate=3e-4"]
    asked = config_of(parser("x").parse_args([str(toml), *said]))
    assert (asked.run.steps, asked.run.name, asked.run.preview_prompts) == (9, "mine", ("a", "b"))
    assert asked.run.output == tmp_path / "elsewhere" and asked.optimizer.learning_rate == 3e-4
    assert asked.data.instance_prompt == "a zuv disc"
    toml.write_text('preset = "sketch"\n' + toml.read_text())
    memory = ["--memory", "8", "--family", "sdxl", "--set", "rank=3"]
    assert config_of(parser("x").parse_args([str(toml), *memory])).adapter.rank == 3


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "give a TOML file, or --pictures and --trigger"),
        (["--pictures", "p"], "--trigger is missing"),
        (["--pictures", "p", "--trigger", "z", "--preset", "tough"], "did you mean 'thorough'?"),
        (["--pictures", "p", "--trigger", "z", "--set", "run.step=3"], "did you mean 'run.steps'"),
        (["--pictures", "p", "--trigger", "z", "--set", "data.steps=3"], "unknown setting 'data.steps'"),
        (["--pictures", "p", "--trigger", "z", "--set", "steps"], "isn't FIELD=VALUE"),
        (["--pictures", "p", "--trigger", "z", "--set", "steps=many"], "run.steps: got 'many'"),
        (["--pictures", "p", "--trigger", "z", "--kind", "style", "--class", "owl"], "--class has no effect"),
        (["--pictures", "p", "--trigger", "z", "--kind", "object"], "data.kind: got 'object'"),
        (["--memory", "much"], "invalid int value: 'much'"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(
    said: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(said) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


def test_the_doctor_looks_and_learns_nothing(
    toml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, pictures: Path
) -> None:
    (pictures / "00.png").write_bytes(b"no picture")
    assert main([str(toml), "--doctor"]) == 0
    shown = capsys.readouterr()
    assert "00.png" in shown.out and not shown.err and not (tmp_path / "run").exists()
    assert main([str(toml), "--doctor", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["file"] == "00.png" and first["advice"]


def test_the_first_interruption_pauses_between_two_steps(
    toml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = events.append

    def interrupted(folder: Path, event: events.TrainEvent) -> None:
        append(folder, event)
        if event.kind == "step" and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(events, "append", interrupted)
    assert main([str(toml)]) == 130
    error = capsys.readouterr().err
    assert "pausing after this step" in error and "run the same command to go on" in error
    # The step was finished and kept, and signals go where they went.
    assert (tmp_path / "run" / "checkpoints" / "step-000003").is_dir()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interruption_is_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with interruptions() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    with interruptions(quiet=True) as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
    assert capsys.readouterr().err.count("pausing") == 1


def test_a_full_disk_pauses_with_that_word(
    toml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = events.append

    def full(folder: Path, event: events.TrainEvent) -> None:
        if event.kind == "step" and event.step == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "events.jsonl"))
        append(folder, event)

    monkeypatch.setattr(events, "append", full)
    assert main([str(toml)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: paused: disk full") and error.count("\n") == 1
    assert (tmp_path / "run" / "checkpoints" / "step-000003").is_dir()


def test_a_reader_that_has_had_enough_stops_the_run_with_a_checkpoint(
    toml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m trainers run.toml | head -3`."""

    def gone(_: Progress, event: events.TrainEvent) -> None:
        if event.kind == "step" and event.step == 3:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(Progress, "show", gone)
    assert main([str(toml)]) == 130
    said = capsys.readouterr().err
    assert said == "stopped, since nobody reads this any more; run the same command to go on\n"
    assert (tmp_path / "run" / "checkpoints" / "step-000003").is_dir()


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "stopped before anything was learned"),
        (PermissionError(13, "Permission denied", "p.txt"), 2, "error: Permission denied (p.txt); see to it"),
        (OSError("odd"), 2, "error: odd; see to it"),
    ],
)
def test_what_happens_before_a_run_is_one_line(
    toml: Path, raised: BaseException, code: int, words: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> int:
        raise raised

    monkeypatch.setattr("trainers.__main__.doctor", fails)
    assert main([str(toml), "--doctor"]) == code
    assert capsys.readouterr().err.startswith(words)


def test_fresh_removes_what_tensorboard_was_told_before(tmp_path: Path) -> None:
    from trainers.run_folder import clear

    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "mine").mkdir()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
