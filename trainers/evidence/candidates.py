"""What a run keeps while it goes on, to choose from at its end: adapters of measured steps, and figures.

evidence/step-000050.json is what was measured at that step and the course of the loss until then;
candidates/step-000050.safetensors is the adapter of it. A run that is resumed reads them again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.files import make_folder, write_atomic
from trainers.evidence.choice import choose
from trainers.evidence.record import CANDIDATES, EVIDENCE, Choice, Measured, Record, Seen
from trainers.room import CANDIDATE_BYTES
from trainers.settings import EvidenceConfig

CURVE = 600
"""Steps of the course of the loss that a record keeps, evenly."""

Row = tuple[int, float, float, float]
_FILE = re.compile(r"step-(\d{6,})\.(json|safetensors)")


@dataclass(eq=False)
class Kept:
    """A run's figures and candidates so far, in its folder.

    steps: by step what was measured; previews: what was seen there. files: of the candidates, by step.
    curve: (step, loss, gradient norm, learning rate) of each step taken.
    seconds: what measuring took so far, by part.
    """

    folder: Path
    config: EvidenceConfig
    steps: dict[int, Measured] = field(default_factory=dict)
    previews: dict[int, Seen] = field(default_factory=dict)
    curve: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"losses": 0.0, "candidates": 0.0})
    _written: int = 0
    _since: dict[int, list[Row]] = field(default_factory=dict)

    def note(self, step: int, loss: float, norm: float, rate: float) -> None:
        """Take in a step of the course of the loss, where it is a number."""
        if math.isfinite(loss) and math.isfinite(norm):
            self.curve.append((step, loss, norm, rate))

    def add(self, step: int, measured: Measured | None = None, preview: Seen | None = None) -> None:
        """Keep what was found at a step; written at once, so that a resumed run has it again."""
        if measured is not None:
            self.steps[step] = measured
        if preview is not None:
            self.previews[step] = preview
        since, self._written = self.curve[self._written :], len(self.curve)
        self._since.setdefault(step, []).extend(since)
        of_step: dict[str, Measured | Seen | None] = {
            "measured": self.steps.get(step),
            "preview": self.previews.get(step),
        }
        found: dict[str, Any] = {
            name: one.model_dump(mode="json") for name, one in of_step.items() if one is not None
        }
        found["curve"] = self._since[step]
        make_folder(self._path(step).parent)
        write_atomic(self._path(step), [json.dumps(found, allow_nan=False).encode()])

    def read(self, until: int) -> None:
        """Take up what was kept up to a step; what was measured later will be measured anew."""
        for path in sorted((self.folder / EVIDENCE).glob("step-*.json")):
            step = int(match[1]) if (match := _FILE.fullmatch(path.name)) else until + 1
            if step > until:
                path.unlink(missing_ok=True)
                continue
            try:
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                if found.get("measured"):
                    self.steps[step] = Measured.model_validate(found["measured"])
                if found.get("preview"):
                    self.previews[step] = Seen.model_validate(found["preview"])
                self.curve += [tuple(row) for row in found.get("curve", ())]
            except (OSError, ValueError, AttributeError):  # damaged: that step counts as not measured
                continue
        self._written = len(self.curve)
        for step, path in self.files().items():
            if step > until or step not in self.steps:
                path.unlink(missing_ok=True)

    def record(self, **known: Any) -> Record:
        """What is known so far. known: other fields of the record."""
        stride = -(-len(self.curve) // CURVE) or 1
        thin = self.curve[::stride]
        if self.curve and thin[-1] != self.curve[-1]:
            thin = [*thin, self.curve[-1]]
        return Record(
            measured=tuple(self.steps[step] for step in sorted(self.steps)),
            previews=tuple(self.previews[step] for step in sorted(self.previews)),
            curve=tuple(thin),
            **known,
        )

    def choice(self, steps: Sequence[int] | None = None) -> Choice | None:
        """The recommended step of those that were measured, or of `steps` alone; None while there is none."""
        return choose(self.record(), steps)

    def files(self) -> dict[int, Path]:
        """The candidates that are kept, by step."""
        found = {}
        for path in (self.folder / CANDIDATES).glob("step-*.safetensors"):
            if match := _FILE.fullmatch(path.name):
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    def candidate(self, step: int) -> Path:
        """Where the candidate of a step lies, or will lie."""
        return self.folder / CANDIDATES / f"step-{step:06d}.safetensors"

    def prune(self) -> None:
        """Remove candidates beyond the number that is kept: never the recommended one nor the newest.

        Of the others that one goes whose neighbours are the nearest to each other.
        """
        files = self.files()
        largest = max((path.stat().st_size for path in files.values()), default=1)
        most = max(2, min(self.config.candidates, CANDIDATE_BYTES // max(1, largest)))
        chosen = self.choice(list(files))
        while len(files) > most:
            order = list(files)
            kept = {order[-1], *([chosen.step] if chosen else ())}
            gaps = {
                step: after - before
                for before, step, after in zip([0, *order], order, order[1:], strict=False)
                if step not in kept
            }
            gone = min(gaps, key=lambda step: (gaps[step], step))
            files.pop(gone).unlink(missing_ok=True)

    def ended(self) -> bool:
        """Whether the run is to end early: the best step lies `patience` measurements back."""
        if not self.config.stop_early or (choice := self.choice()) is None:
            return False
        return sum(step > choice.step for step in self.steps) >= self.config.patience

    def _path(self, step: int) -> Path:
        return self.folder / EVIDENCE / f"step-{step:06d}.json"
