"""KINDS of jobs: what each is called, when its turn comes, and the function that does it in a process."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, nearest

if TYPE_CHECKING:
    from studio.work.job import Job
    from studio.workspace import Workspace

Ended = tuple[str, dict[str, Any]]
"""(final state, result)."""
Work = Callable[["Workspace", "Job", threading.Event], Ended]
"""(workspace, job, stop) → how it ended. It looks at `stop` often and, where that is set, ends with what
`studio.work.following.stopped` says; `Jobs.beat` tells how far it is. Raises: StudioError, in one line."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of job.

    Attributes:
        label: what lists call it. doing: what is said to those that wait for it ("“Zib” is being taught").
        priority: of waiting jobs the lower goes first, unless a person moves them.
        resumable: goes on where it stopped, so that it can be paused; others begin anew.
        device: computes on the device, which one job has at a time; others run beside it.
        run: "module:function" of its Work; empty where the warm drawing process does it.
        home: section and name of the setting that names its own folder; a copy of the job gets another.
        lower: what to do where there is no memory for it.
    """

    label: str
    doing: str
    priority: int
    resumable: bool
    device: bool
    run: str
    home: tuple[str, str] | None = None
    lower: str = "close other programs"

    def work(self) -> Work:
        """The function that does it."""
        module, _, function = self.run.partition(":")
        found: Work = getattr(importlib.import_module(module), function)
        return found

    def moved(self, config: dict[str, Any], folder: str) -> dict[str, Any]:
        """A job's config with `folder` as its own; as it is where it has none."""
        if not self.home:
            return config
        section, name = self.home
        return {**config, section: {**config.get(section, {}), name: folder}}


KINDS: dict[str, Kind] = {
    "generate": Kind(
        label="Pictures", doing="is being drawn", priority=0, resumable=False, device=True, run=""
    ),
    "captions": Kind(
        label="Captions", doing="gets its captions", priority=1, resumable=True, device=True,
        run="studio.work.captions:run", lower="choose a smaller captioner, or close other programs",
    ),
    "class_pictures": Kind(
        label="Class pictures", doing="gets its class pictures", priority=1, resumable=True, device=True,
        run="studio.work.class_pictures:run",
    ),
    "train": Kind(
        label="Training", doing="is being taught", priority=2, resumable=True, device=True,
        run="studio.work.training:run", home=("run", "output"),
    ),
    "export": Kind(
        label="Export", doing="is being exported", priority=0, resumable=False, device=False,
        run="studio.work.exporting:run", lower="export without the picture that is compared",
    ),
    "resize": Kind(
        label="Resize", doing="is being resized", priority=0, resumable=False, device=False,
        run="studio.work.reworking:resize", lower="choose a lower rank, or close other programs",
    ),
    "merge": Kind(
        label="Merge", doing="is being merged", priority=0, resumable=False, device=False,
        run="studio.work.reworking:merge", lower="merge fewer adapters at once, or to a lower rank",
    ),
    "convert": Kind(
        label="Convert", doing="is being converted", priority=0, resumable=False, device=False,
        run="studio.work.reworking:convert", lower="choose a lower rank, or close other programs",
    ),
    "import": Kind(
        label="Import", doing="is being read", priority=0, resumable=False, device=False,
        run="studio.work.adding:adapters",
    ),
    "add_base": Kind(
        label="Base", doing="is being added", priority=1, resumable=True, device=False,
        run="studio.work.adding:base",
    ),
}  # fmt: skip


def kind_of(name: str) -> Kind:
    """The row of that name. Raises: ConfigError for an unknown one."""
    if name not in KINDS:
        raise ConfigError(f"unknown kind of job {name!r}{nearest(name, KINDS)}")
    return KINDS[name]
