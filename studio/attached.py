"""What is known of how an adapter was taught, kept beside its file in the workspace.

It stays when the run is removed, and goes with the adapter.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipelines.errors import StudioError
from pipelines.files import write_atomic
from studio.workspace import Workspace
from trainers.evidence.record import RECORD_NAME, REPORT_NAME, Record, read_record

if TYPE_CHECKING:
    from studio.context import Context

log = logging.getLogger("pigment")


def attach(workspace: Workspace, adapter_id: str, folder: Path, *, step: int | None = None) -> bool:
    """Keep evidence.json and report.html of a run's folder beside an adapter; False where there is none.

    step: the adapter is of this one, not of the step that the run took: what was measured of that one alone
    (its pictures, copies, anatomy) is left out.

    Raises: StudioError where evidence.json can't be read; OSError.
    """
    found = read_record(folder)
    if found is None:
        return False
    if step is None or step == (found.drawn.step if found.drawn else found.choice and found.choice.step):
        report = folder / REPORT_NAME
        page = report.read_bytes() if report.is_file() else _page(found, folder)
    else:
        found = found.model_copy(update=dict.fromkeys(("drawn", "base", "memorisation", "anatomy")))
        found = found.model_copy(update={"run": {**found.run, "step": step}})
        page = _page(found, folder)
    text = json.dumps(found.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    write_atomic(_beside(workspace, adapter_id, RECORD_NAME), [text.encode()])
    write_atomic(_beside(workspace, adapter_id, REPORT_NAME), [page])
    return True


def _page(found: Record, folder: Path) -> bytes:
    from trainers.evidence.report import report

    return report(found, folder).encode()


def _beside(workspace: Workspace, adapter_id: str, name: str) -> Path:
    return workspace.folder("adapters", f"{adapter_id}.{name}")


def record(context: Context, adapter_id: str) -> Record | None:
    """What is known of how an adapter was taught; None where it isn't known."""
    return kept_record(context.workspace, adapter_id)


def kept_record(workspace: Workspace, adapter_id: str) -> Record | None:
    """`record`, of a workspace without a page."""
    path = _beside(workspace, adapter_id, RECORD_NAME)
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:  # of a newer Pigment, or damaged
        log.warning("evidence of adapter %s can't be read: %s", adapter_id, str(error).splitlines()[0])
        return None


def report_file(workspace: Workspace, adapter_id: str) -> Path | None:
    """The report of how an adapter was taught; None where there is none."""
    path = _beside(workspace, adapter_id, REPORT_NAME)
    return path if path.is_file() else None


def run_record(folder: Path) -> Record | None:
    """What is known of a run, of its folder; None also where it can't be read."""
    try:
        return read_record(folder)
    except StudioError as error:
        log.warning("%s", error)
        return None
