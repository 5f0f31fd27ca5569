"""What a run leaves: its adapter, or after a loss that is no number the last one that was sound."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.adapter import Adapter
from pipelines.errors import AdapterError, NotFinite
from pipelines.formats import write_adapter
from pipelines.formats.table import FORMATS
from pipelines.formats.writing import unholdable
from trainers.config import TrainConfig
from trainers.dataset import Dataset
from trainers.evidence.record import Onset
from trainers.processes import Processes
from trainers.run_folder import LAST_FINITE
from trainers.tuning import Injection

FORMS = ("kohya", "lycoris", "pigment")
"""Forms of a run's own file; the sooner, the more tools read it."""


@dataclass(frozen=True, eq=False)
class Result:
    """Writes what an injection knows as an adapter file, in the form that most tools read of those that hold
    it. rates: the learning rates that the config came to."""

    injection: Injection
    config: TrainConfig
    dataset: Dataset
    base_sha256: str
    rates: Sequence[float]

    def write(self, path: Path, step: int) -> dict[str, Any]:
        """Write the adapter of this moment, `step`; return what is said of it."""
        metadata = {
            "training": json.dumps(self.config.public(), ensure_ascii=False, sort_keys=True),
            "learning_rates": json.dumps(sorted(set(self.rates))),
            "base_sha256": self.base_sha256,
            "pictures": str(len(self.dataset.learn)),
            "steps": str(step),
        }
        adapter = self.injection.collect(self.config.adapter_name, (self.config.data.trigger,), metadata)
        sha256, form = write_smallest(adapter, path)
        return {"adapter": path.name, "sha256": sha256, "rank": adapter.rank, "format": form}


def write_smallest(adapter: Adapter, path: Path) -> tuple[str, str]:
    """Write an adapter in the first of FORMS that holds it; return (SHA-256, form).

    In fp16, or where its numbers leave that range in fp32.
    """
    fitting = [form for form in FORMS if unholdable(adapter, FORMATS[form]) is None]
    for form in fitting:
        for dtype in ("fp16", "fp32"):
            try:
                return write_adapter(adapter, path, format=form, dtype=dtype), form
            except AdapterError:
                if (form, dtype) == (fitting[-1], "fp32"):
                    raise
    raise AssertionError("the pigment form holds every adapter")


def not_finite(
    injection: Injection,
    config: TrainConfig,
    step: int,
    committed: int,
    processes: Processes,
    onset: Onset | None = None,
) -> NotFinite:
    """Keep the adapter as it was before a step whose numbers broke; say what there is and what to do.

    The step hasn't been taken, or what it left isn't kept. committed: the step of the last checkpoint, 0
    where there is none. onset: where it began, see `trainers.evidence.onset`.
    """
    kept = [f"the checkpoint at step {committed}"] if committed else []
    sound = all(bool(value.isfinite().all()) for value in injection.parameters.values())
    if sound and step > 1 and processes.main:
        adapter = injection.collect(config.adapter_name, (config.data.trigger,), {"steps": str(step - 1)})
        write_smallest(adapter, config.run.output / LAST_FINITE)
        kept.append(f"the adapter of step {step - 1} as {LAST_FINITE}")
    said = f"kept: {' and '.join(kept)}" if kept else "nothing was saved"
    what = "loss isn't" if onset is None or onset.phase != "update" else "numbers aren't"
    began = f", first in {onset.where} ({onset.phase})" if onset is not None else ""
    again = onset is None or onset.repeated
    cure = "lower optimizer.learning_rate and start afresh" if again else "run again to go on"
    if again and step == 1:  # no rate has been at work
        cure = "it is the base that breaks: fetch it again, or set run.precision to 'bf16' or 'fp32'"
    return NotFinite(f"{what} finite at step {step} ({said}){began}; {cure}", comes_again=again)
