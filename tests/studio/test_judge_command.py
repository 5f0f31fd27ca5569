"""`pigment judge`: what it takes, what it refuses in one line, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats import read_adapter, write_adapter
from studio.cli import main
from studio.commands import judging
from tests.pipelines.making import modules_for, random_adapter_of
from trainers.evidence.record import read_record


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("PIGMENT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def one(make_adapter: Callable[..., Path]) -> str:
    return str(make_adapter(Path("one.safetensors").absolute(), name="one"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["judge", *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    return said


def test_it_measures_and_writes(
    one: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["judge", one, "--base", str(tiny_folder), "--samples", "0", "--prompt", "a zwx"]
    assert main([*arguments, "--out", "found", "--json"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    record = read_record(Path("found"))
    assert record is not None
    assert said["record"] == record.model_dump(mode="json")
    assert all(Path(path).is_file() for path in said["written"].values())
    assert (record.drawn, record.run["trigger"], record.run["steps"]) == (None, "zwx", 300)
    assert record.anatomy is not None
    assert record.anatomy.blocks[0].relative is not None
    assert "looking at the adapter" in captured.err
    monkeypatch.setattr(judging, "_measured", lambda case, base: record)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "ranks for 99% of its change" in text
    assert "one-evidence" in text


def test_without_a_fitting_base_the_adapter_itself_is_looked_at(
    one: str, tiny_base: Base, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(self: Any, base: Base) -> None:
        raise AdapterError("doesn't fit")

    monkeypatch.setattr(judging, "the_base", lambda args: tiny_base)
    monkeypatch.setattr("pipelines.adapter.Adapter.check", unfit)
    assert main(["judge", one]) == 0
    assert "nothing is drawn" in capsys.readouterr().err
    record = read_record(Path("one-evidence"))
    assert record is not None
    assert (record.drawn, record.measured) == (None, ())
    assert record.anatomy is not None
    assert record.anatomy.blocks[0].relative is None
    assert "--samples has no effect" in refused(capsys, one, "--samples", "3")
    dora = random_adapter_of(tiny_base, "dora", modules_for(tiny_base, "dora")[:1])
    write_adapter(dora, "dora.safetensors", "lycoris")
    assert "doesn't fit" in refused(capsys, "dora.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to judge"),
        (("none.safetensors",), "no file"),
        (("--run", "."), "no folder of a run"),
        (("one.safetensors", "--run", ".", "--trigger", "x"), "--trigger has no effect with --run"),
        (("one.safetensors", "--pictures", "nowhere"), "no such folder"),
        (("one.safetensors", "--held-out", "1"), "--held-out counts pictures"),
        (("one.safetensors", "--out", "one.safetensors"), "is a file"),
        (("one.safetensors", "--out", "a/b/c"), "isn't there"),
        (("one.safetensors", "--prompt", "no word"), "expected the trigger 'zwx' in it"),
        (("one.safetensors", "--kind", "thing"), "invalid choice"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    one: str, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, *arguments)


def test_a_run_alone_is_judged_where_it_lies(
    one: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.config import preset_config

    run = tmp_path / "run"
    run.mkdir()
    config = preset_config(
        "sketch", "subject", instance_images=tmp_path / "gone", trigger="zwx", instance_prompt="a zwx",
        output=run, base="some-base", prediction_type="epsilon",
    )  # fmt: skip
    (run / "config.json").write_text(config.as_json())
    assert "has left no adapter.safetensors" in refused(capsys, "--run", str(run))
    write_adapter(read_adapter(one), run / "adapter.safetensors", "kohya")
    seen = {}

    def measured(case: Any, base: Any) -> Any:
        seen["case"] = case
        return case.before

    monkeypatch.setattr(judging, "the_base", lambda args: seen.setdefault("args", args))
    monkeypatch.setattr(judging, "_measured", measured)
    assert main(["judge", "--run", str(run), "--samples", "5"]) == 0
    assert (seen["args"].base, seen["args"].prediction_type) == ("some-base", "epsilon")
    case = seen["case"]
    assert (case.out, case.pictures, case.config.evidence.samples) == (run, False, 5)
    assert case.config.data.trigger == "zwx"
    assert main(["judge", one, "--run", str(run)]) == 0
    assert seen["case"].out == Path("one-evidence").absolute()
