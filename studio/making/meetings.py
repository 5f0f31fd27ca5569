"""The sentences that matter about a mix: measured once per set of adapters, then said of any weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from studio.library import Entry, Library
from studio.making.held import Held
from studio.mixing import MixPart
from studio.whole import read_whole

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.interference import Meeting
    from pipelines.mixer import Mixer

KEPT = 64  # measured adapters, and sets of them
_TRIES = 3  # another base may be loaded in between


class Meetings:
    """Keeps what was measured of adapters on a base. Between two blocks the base is given to others.

    idle: returns when nobody waits for a preview.
    """

    def __init__(self, held: Held, idle: Callable[[], object]) -> None:
        self._held, self._idle = held, idle
        self._effects: OrderedDict[tuple[str, str], dict[str, float]] = OrderedDict()
        self._met: OrderedDict[tuple[str, ...], Meeting] = OrderedDict()

    def sentences(self, base: str, mix: Sequence[MixPart]) -> dict[str, Any]:
        """What matters about a mix: {"sentences": […]}, the adapters by id (see `Sentence.as_dict`).

        Raises:
            AdapterError: fewer than two adapters, or ones that don't fit the base or have no ΔW. Busy: the
            device is in use.
        """
        from pipelines.interference_words import sentences

        if len({part.id for part in mix}) != len(mix) or len(mix) < 2:
            raise AdapterError(f"got {len(mix)} adapters to compare; put two or more into the mix, each once")
        library = Library(self._held.workspace)
        entries = {part.id: library.get(part.id) for part in mix}
        met = self._meeting(base, entries)
        weights = {part.id: (part.weight, part.weight if part.text is None else part.text) for part in mix}
        report = met.at(weights, {part.id: part.blocks for part in mix})
        names = {one: entry.name for one, entry in entries.items()}
        return {"sentences": [one.as_dict() for one in sentences(report, names)]}

    def _meeting(self, base: str, entries: Mapping[str, Entry]) -> Meeting:
        key = (base, *(f"{one} {entry.sha256}" for one, entry in entries.items()))
        if key not in self._met:
            library = Library(self._held.workspace)
            adapters = {one: read_whole(library, entry) for one, entry in entries.items()}
            met = self._compared(base, adapters)
            effects = {one: self._effect(base, entries, one) for one in adapters}
            self._met[key] = replace(met, effects=effects)
        return _newest(self._met, key)

    def _compared(self, base: str, adapters: Mapping[str, Adapter]) -> Meeting:
        from pipelines.interference import meeting
        from pipelines.methods import METHODS

        with self._held.device.taken("comparing adapters"), self._held.lent(base) as (mixer, _):
            for adapter in adapters.values():
                adapter.check(mixer.base)
            if any(METHODS[method].needs_weight for own in adapters.values() for method in own.methods):
                mixer.restore()
                return meeting(adapters, mixer.base)
        return meeting(adapters)  # of its own, while the preview goes on

    def _effect(self, base: str, entries: Mapping[str, Entry], one: str) -> dict[str, float]:
        """An adapter's effect by block."""
        key = (base, entries[one].sha256)
        for _ in range(_TRIES if key not in self._effects else 0):
            found = self._measured(base, tuple(entries), one)
            if found is not None:
                self._effects[key] = found
                break
        if key not in self._effects:
            raise AdapterError("another base was loaded again and again; try again")
        return _newest(self._effects, key)

    def _measured(self, base: str, ids: Sequence[str], one: str) -> dict[str, float] | None:
        """Measure block by block, whenever the preview has nothing to draw; None where the base was loaded
        anew meanwhile."""
        from pipelines.effects import block_effects

        found: dict[str, float] = {}
        rest: Iterator[tuple[str, float]] | None = None
        on: Mixer | None = None
        while True:
            self._idle()
            with self._held.device.taken("comparing adapters"), self._held.lent(base) as (mixer, _):
                self._held.attach(mixer, ids)
                if rest is None:
                    on, rest = mixer, block_effects(mixer, one)
                if mixer is not on:
                    return None
                measured = next(rest, None)
            if measured is None:
                return found
            found.update([measured])


def _newest(kept: OrderedDict[Any, Any], key: Any) -> Any:
    """What is kept under a key, as the last to be dropped."""
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)
    return kept[key]
