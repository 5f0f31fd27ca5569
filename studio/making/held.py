"""The base that is drawn with, its mixer and its live preview: one of each, lent to one thread at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import Busy
from studio.bases import BaseOptions, Bases
from studio.library import Entry, Library
from studio.locks import FileLock
from studio.turns import holder
from studio.whole import read_whole
from studio.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.live import Live
    from pipelines.mixer import Mixer

KEPT_ADAPTERS = 16  # loaded adapters beyond which unused ones are dropped
SHORT = ("the live preview", "weighing adapters", "comparing adapters")
"""What another account's process has the device for that is worth waiting for."""
PATIENCE = 5.0  # seconds


class Device:
    """The lock of the device: taken once for all threads of this process, given back by the last of them."""

    def __init__(self, path: Path, workspace: Workspace | None = None) -> None:
        """workspace: whose jobs may be named to those who wait."""
        self._workspace = workspace
        self._lock = FileLock(path)
        self._counting = threading.Lock()
        self._holders = 0

    def take(self, note: str) -> bool:
        """Take it without waiting; False where another process has it."""
        with self._counting:
            if self._holders == 0 and not self._lock.acquire(note=note):
                return False
            self._holders += 1
            return True

    def give(self) -> None:
        """Give back what `take` took."""
        with self._counting:
            self._holders -= 1
            if self._holders == 0:
                self._lock.release()

    @contextmanager
    def taken(self, note: str) -> Iterator[None]:
        """Hold it meanwhile.

        Raises:
            Busy: another process has it, for more than a moment.
        """
        patience = time.monotonic() + PATIENCE
        while not self.take(note):
            has_it = holder(self._lock, self._workspace)
            if has_it not in SHORT or time.monotonic() > patience:
                raise Busy(f"the device is in use by {has_it}; try again after it")
            time.sleep(0.02)
        try:
            yield
        finally:
            self.give()


class Held:
    """What is loaded. Threads lend it from each other; the live preview pauses meanwhile.

    on_load: told what was loaded, as JSON values: "base", "device", "bytes" of its weights.
    """

    def __init__(
        self,
        workspace: Workspace,
        options: BaseOptions | None = None,
        on_load: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        self.workspace = workspace
        self.options = options or BaseOptions()
        self.device = Device(workspace.device_lock, workspace)
        self._on_load = on_load
        self._lock = threading.Lock()
        self._ref = ""
        self._live: Live | None = None

    @contextmanager
    def lent(self, ref: str) -> Iterator[tuple[Mixer, Live]]:
        """The mixer over base `ref`, loaded if it is another one, for this thread alone.

        Wishes that are submitted to the live preview meanwhile are drawn afterwards.
        """
        with self._lock:
            live = self._at(ref)
            with live.paused() as mixer:
                yield mixer, live

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._drop()

    def load(self, ref: str) -> Base:
        """Load a base beside the one that is held, opened as the workspace's list says."""
        return self.options_of(ref).load(ref)

    def options_of(self, ref: str) -> BaseOptions:
        """How a base is opened: as was asked, and else as the workspace's list keeps it."""
        return Bases(self.workspace).options(ref, self.options)

    def _at(self, ref: str) -> Live:
        if self._live is not None and self._ref == ref:
            return self._live
        from pipelines.live import Live
        from pipelines.mixer import Mixer

        self._drop()
        base = self.load(ref)
        self._live, self._ref = Live(Mixer(base)), ref
        if self._on_load is not None:
            self._on_load({"base": ref, "device": str(base.device), "bytes": bytes_of(base)})
        return self._live

    def _drop(self) -> None:
        if self._live is None:
            return
        live, self._live, self._ref = self._live, None, ""
        live.close()
        with live.paused() as mixer:
            mixer.restore()

    def attach(self, mixer: Mixer, ids: Iterable[str]) -> dict[str, Entry]:
        """Put adapters of the library into the mixer, under their ids; returns their entries.

        Those that aren't among them are dropped where more than `KEPT_ADAPTERS` would be loaded.
        Raises:
            AdapterError: one is gone, damaged or doesn't fit the base.
        """
        library = Library(self.workspace)
        entries = {adapter_id: library.get(adapter_id) for adapter_id in ids}
        make_room(mixer, set(entries))
        for adapter_id, entry in entries.items():
            if adapter_id not in mixer.names:
                mixer.add(adapter_id, read_whole(library, entry))
        return entries


def make_room(mixer: Any, wanted: set[str]) -> None:
    """Drop adapters that aren't wanted, where more than `KEPT_ADAPTERS` would be loaded."""
    if len(wanted.union(mixer.names)) > KEPT_ADAPTERS:
        for name in set(mixer.names) - wanted:
            mixer.remove(name)


def bytes_of(base: Base) -> int:
    """The bytes of a base's weights, wherever they lie."""
    parts = [base.unet, base.vae, *base.text_encoders().values()]
    return sum(tensor.nbytes for part in parts for tensor in part.parameters())
