"""`python -m trainers`: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers import events
from trainers.__main__ import main
from trainers.config import TrainConfig

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
    assert printed[-1].startswith("[4/4] adapter 'zuv' learned in 4 steps: ")
    assert printed[-1].endswith("adapter.safetensors")
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
