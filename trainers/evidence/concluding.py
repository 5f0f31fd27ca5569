"""What a run has come to: the step that is taken, and everything that is measured once, at the end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.base import Base
from pipelines.errors import StudioError
from pipelines.files import file_sha256, write_atomic
from pipelines.formats import read_adapter
from pipelines.mixer import Mixer
from trainers.config import TrainConfig
from trainers.dataset import Dataset
from trainers.events import TrainEvent
from trainers.evidence.candidates import Kept
from trainers.evidence.provenance import machine, versions
from trainers.evidence.record import PICTURE_NAME, Choice, Onset, Record, write_record
from trainers.run_folder import ADAPTER_NAME

REFERENCES = 24
"""Pictures, at most, that drawn ones are compared with; evenly out of all."""

TAUGHT = "taught"
"""Name of the adapter in the mix that is drawn with."""


def take(kept: Kept, written: dict[str, Any], last: int) -> tuple[dict[str, Any], Choice | None]:
    """Let adapter.safetensors be the recommended candidate, where one is asked for and there is one.

    written: what is said of the adapter of the last step, which lies there. Returns: (what is said of the
    adapter that lies there now, with its "step"; the choice).
    """
    files = kept.files()
    choice = kept.choice([*files, last])
    if choice is None or kept.config.take == "last" or choice.step == last or choice.step not in files:
        return {**written, "step": last}, choice
    path = kept.folder / ADAPTER_NAME
    temporary = path.with_name(f".{path.name}.taken")
    shutil.copyfile(files[choice.step], temporary)
    temporary.replace(path)
    said = {**written, "sha256": file_sha256(path), "rank": read_adapter(path).rank}
    return {**said, "step": choice.step}, choice


@dataclass(eq=False)
class Conclusion:
    """Measures what a run has left, once its adapter is out of the base, and writes it down.

    What fails is a note, and the rest is measured all the same. seconds: by part, what measuring took.
    notes: lines that a person should read.
    """

    base: Base
    config: TrainConfig
    dataset: Dataset
    kept: Kept
    base_sha256: str
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def conclude(self, choice: Choice | None, step: int) -> Iterator[TrainEvent]:
        """Measure, judge and write; yield what is told of it. step: which one the adapter is of."""
        total, data = self.config.run.steps, {"stage": "evidence"}
        said = "Measuring what was learned"
        yield TrainEvent(kind="stage", step=step, total=total, message=said, data=data)
        known: dict[str, Any] = {"choice": choice}
        with self._part("anatomy"):
            known |= self._anatomy()
        with self._part("pictures"):
            known |= self._pictures(step)
        self._write(self._record(**known))
        yield from (TrainEvent(kind="warning", step=step, total=total, message=note) for note in self.notes)

    def failed(self, onset: Onset) -> None:
        """Write down what is known of a run whose loss is no number any more."""
        self._write(self._record(onset=onset, choice=self.kept.choice(list(self.kept.files()))))

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Clock a part; whatever goes wrong in it is a note."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            kind = "" if isinstance(error, StudioError) else f"{type(error).__name__}: "
            self.notes.append(f"evidence: {name} left out ({kind}{said})")
        finally:
            self.seconds[name] = round(time.perf_counter() - began, 3)

    def _record(self, **known: Any) -> Record:
        """Everything that is known, with the verdict."""
        data, run = self.config.data, self.config.run
        about = {
            "name": self.config.adapter_name, "kind": data.kind, "trigger": data.trigger, "steps": run.steps,
            "family": self.base.family.id, "base": Path(run.base).name, "base_sha256": self.base_sha256,
            "data_sha256": self.dataset.sha256, "pictures": len(self.dataset.learn),
            "held_out": len(self.dataset.held_out),
        }  # fmt: skip
        found = self.kept.record(
            run=about, config=self.config.public(), seconds={**self.kept.seconds, **self.seconds},
            environment={"machine": machine(), "versions": versions()}, **known,
        )  # fmt: skip
        with self._part("verdict"):
            from trainers.evidence.rules import verdict

            return found.model_copy(update={"verdict": verdict(found)})
        return found

    def _write(self, record: Record) -> None:
        """Write evidence.json, and what is made of it for people to look at."""
        folder = self.kept.folder
        with self._part("evidence.json"):
            write_record(folder, record)
        with self._part("picture"):
            from trainers.evidence.picture import evidence_picture

            encoded = _png(evidence_picture(folder, record))
            write_atomic(folder / PICTURE_NAME, [encoded])
        with self._part("report"):
            from trainers.evidence.report import write_report

            write_report(folder)

    def _anatomy(self) -> dict[str, Any]:
        from trainers.evidence.anatomy import anatomy

        return {"anatomy": anatomy(read_adapter(self.kept.folder / ADAPTER_NAME), self.base)}

    def _pictures(self, step: int) -> dict[str, Any]:
        """What pictures tell: how alike those that were learned from are, previews, and drawn ones."""
        from trainers.evidence.drawn import References, draw_and_judge, judge_preview
        from trainers.evidence.judges import load_judges
        from trainers.evidence.uniform import alike

        folder, asked = self.kept.folder, self.config.evidence
        references = References.of(self.dataset, REFERENCES)
        known: dict[str, Any] = {"alike": alike(references.taught)}
        if not (self.kept.previews or asked.samples):
            return known
        judges = load_judges(self.base, asked, self.base.device)
        for one, seen in self.kept.previews.items():
            files = [folder / file for file in seen.files]
            if all(file.is_file() for file in files):
                judged = judge_preview(files, seen.prompts, judges, references, self.config.data)
                own = {"step": one, "files": seen.files, "seeds": seen.seeds}
                self.kept.previews[one] = judged.model_copy(update=own)
        if asked.samples:
            with Mixer(self.base) as mixer:
                mixer.add(TAUGHT, read_adapter(folder / ADAPTER_NAME))
                drawn = draw_and_judge(self.base, mixer, self.config, references, folder, step, judges)
            known |= {"drawn": drawn.seen, "base": drawn.base, "memorisation": drawn.memorisation}
        return known


def _png(picture: Image.Image) -> bytes:
    import io

    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    return encoded.getvalue()
