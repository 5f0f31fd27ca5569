"""Pickles at every door that takes a file: none is opened, whatever its name says and wherever it lies."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.model_files_doors import Door
from tests.faults.model_files_payloads import ENDINGS, MADE, goes_off, watched
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

ENOUGH = 5  # failures, after which no more is tried


def run(task: Task, tally: Tally) -> None:
    """Hand payloads in at the doors: each at one, and over the whole count every payload at every door."""
    from tests.faults.model_files_networks import knocked

    marker = task.folder / "opened"
    kinds, doors = list(MADE), list(DOORS)
    raws = {kind: MADE[kind](str(marker)) for kind in kinds}
    live = {kind: goes_off(raw, marker, task.folder) for kind, raw in raws.items()}
    knocked_at = set()
    for number in range(task.count):
        turn, which = divmod(number, len(doors))
        door, kind = doors[which], kinds[(turn + which) % len(kinds)]
        ending = ENDINGS[(turn + 3 * which) % len(ENDINGS)]
        if not live[kind]:
            tally.didnt_happen()
            continue
        place = task.folder / "place"
        place.mkdir()
        with watched() as opened:
            problem = knocked(partial(DOORS[door], raws[kind], ending, place))
        if marker.exists():
            problem = "the payload went off"
            marker.unlink()
        elif opened:
            problem = f"it was given to {opened[0]}"
        knocked_at.add(door)
        tally.happened(f"{kind} as {ending or 'a name without ending'}, {door}", problem)
        shutil.rmtree(place)
        if len(tally.failures) >= ENOUGH:
            break
    tally.measured("doors", len(knocked_at))


class _Doors(Mapping[str, Door]):
    """All doors by name, made when they are first asked for: they import much."""

    _made: dict[str, Door] | None = None

    def _all(self) -> dict[str, Door]:
        if self._made is None:
            from tests.faults import model_files_doors as doors
            from tests.faults import model_files_networks as networks

            self._made = {
                **doors.adapter_doors(), **doors.library_doors(), **doors.base_doors(),
                **networks.network_doors(), **networks.run_doors(), **networks.picture_doors(),
                **doors.command_doors(),
            }  # fmt: skip
        return self._made

    def __getitem__(self, name: str) -> Door:
        return self._all()[name]

    def __iter__(self) -> Any:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


DOORS = _Doors()
COUNT = 47
"""How many doors there are."""


def _trusting(patch: MonkeyPatch) -> None:
    """Adapters are opened by torch where they are no safetensors file, as elsewhere."""
    import torch

    from pipelines.errors import AdapterError
    from pipelines.formats import container

    own = container.read_header

    def read(path: Path, error: Any = AdapterError) -> Any:
        try:
            return own(path, error)
        except error:
            with contextlib.suppress(Exception):
                torch.load(path, weights_only=False)
            raise

    for module in ("pipelines.formats.container", "pipelines.formats.reading", "pipelines.bases.reading"):
        patch.setattr(f"{module}.read_header", read)


def _any_shard(patch: MonkeyPatch) -> None:
    patch.setattr("pipelines.bases.shards.check_weights", lambda folder, what: None)


PLANTS = {
    "what is no safetensors file is tried as a pickle": _trusting,
    "an index may name any file": _any_shard,
}
