"""What was measured stays with an adapter: when its run is removed, until its trash is emptied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from studio import attached
from studio.context import Context
from studio.work import training
from tests.made_runs import made_record, made_run
from trainers.evidence.record import RECORD_NAME, REPORT_NAME, read_record
from trainers.evidence.report import write_report


@pytest.fixture
def adapter(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> str:
    """The id of an adapter in the library."""
    return context.library.add(make_adapter(tmp_path / "disc.safetensors"))[0].id


def test_evidence_lives_as_long_as_its_adapter(context: Context, adapter: str, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    assert attached.record(context, adapter) is None
    assert attached.report_file(context.workspace, adapter) is None
    page = write_report(run).read_bytes()
    assert attached.attach(context.workspace, adapter, run)
    whole = read_record(run)
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert attached.record(context, adapter) == whole is not None
    report = attached.report_file(context.workspace, adapter)
    assert report is not None and report.read_bytes() == page
    context.library.trash(adapter)
    assert attached.record(context, adapter) is not None
    context.library.empty_trash()
    assert attached.record(context, adapter) is None and not report.exists()


def test_of_another_step_only_what_belongs_to_it_is_kept(
    context: Context, adapter: str, tmp_path: Path
) -> None:
    run = made_run(tmp_path / "run")
    write_report(run)
    assert attached.attach(context.workspace, adapter, run, step=50)  # the one that was drawn
    same = attached.record(context, adapter)
    assert same is not None and same.drawn is not None and same.anatomy is not None
    attached.attach(context.workspace, adapter, run, step=100)
    other = attached.record(context, adapter)
    assert other is not None and other.run["step"] == 100 and other.measured == same.measured
    assert (other.drawn, other.base, other.memorisation, other.anatomy) == (None,) * 4
    report = attached.report_file(context.workspace, adapter)
    assert report is not None and "Against the base" not in report.read_text(encoding="utf-8")


def test_nothing_measured_is_no_error(context: Context, adapter: str, tmp_path: Path) -> None:
    assert not attached.attach(context.workspace, adapter, tmp_path)
    context.workspace.folder("adapters", f"{adapter}.{RECORD_NAME}").write_text('{"evidence": 99, "new": 1}')
    assert attached.record(context, adapter) is None
    (tmp_path / RECORD_NAME).write_text("torn")
    assert attached.run_record(tmp_path) is None


def test_a_training_that_cant_attach_says_so(
    context: Context, adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training.attach(context.workspace, adapter, made_run(tmp_path / "run"))  # its report is missing: made now
    assert attached.report_file(context.workspace, adapter) is not None and not capsys.readouterr().out
    (tmp_path / "run" / RECORD_NAME).write_text("torn")
    training.attach(context.workspace, adapter, tmp_path / "run")
    assert "isn't kept beside the adapter: evidence.json can't be read" in capsys.readouterr().out


def test_the_cover_is_of_the_adapters_step(tmp_path: Path) -> None:
    assert training.cover_of(tmp_path) == ""
    record = made_record(tmp_path)
    assert training.cover_of(tmp_path) == "step-000100-00.png"  # nothing known: the last one
    assert record.choice is not None
    made_run(tmp_path)
    assert training.cover_of(tmp_path) == "step-000050-00.png"
    assert not (tmp_path / REPORT_NAME).exists()
