"""What a run has come to: the step that is taken, and everything that is measured once, at the end."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.errors import StudioError
from pipelines.files import write_atomic
from pipelines.formats import read_adapter
from pipelines.methods import TUNINGS
from pipelines.mixer import Mixer
from trainers.batches import Batch
from trainers.bundle import Told, write_bundle
from trainers.events import TrainEvent
from trainers.evidence.candidates import Kept
from trainers.evidence.onset import Forward, after_update, find_onset
from trainers.evidence.provenance import machine, versions
from trainers.evidence.record import PICTURE_NAME, Choice, Onset, Record, write_record
from trainers.evidence.rules import verdict
from trainers.optimizers import base_rate_scale
from trainers.processes import Processes
from trainers.results import not_finite
from trainers.room import disk_full
from trainers.run_folder import ADAPTER_NAME
from trainers.stepping.readings import Reading
from trainers.tuning import Injection
from trainers.tuning.rates import usual_rate


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
    with files[choice.step].open("rb") as read:
        sha256 = write_atomic(path, iter(lambda: read.read(1 << 20), b""))
    said = {**written, "sha256": sha256, "rank": read_adapter(path).rank}
    return {**said, "step": choice.step}, choice


@dataclass(eq=False)
class Conclusion:
    """Measures what a run has left, once its adapter is out of the base, and writes it down.

    What fails is a note, and the rest is measured all the same. processes: of the run; the first one
    writes. seconds: by part, what measuring took.
    notes: lines that a person should read.
    """

    told: Told
    kept: Kept
    processes: Processes
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def conclude(self, written: dict[str, Any], last: int) -> Generator[TrainEvent, None, dict[str, Any]]:
        """Take the step that is asked for, measure, judge and write; yield what is told of it.

        written: what is said of the adapter of the step `last`, which lies there. Returns: what is said of
        the one that lies there now.
        """
        said, choice = take(self.kept, written, last)
        step, total = said["step"], self.told.config.run.steps
        message = "Measuring what was learned"
        yield TrainEvent(kind="stage", step=step, total=total, message=message, data={"stage": "evidence"})
        known: dict[str, Any] = {"choice": choice}
        with self._part("anatomy"):
            known |= self._anatomy()
        with self._part("pictures"):
            known |= self._pictures(step)
        self._write(self._record(**known))
        if self.told.config.evidence.report:
            with self._part("bundle"):
                write_bundle(self.kept.folder, self.told, step)
        yield from (TrainEvent(kind="warning", step=step, total=total, message=note) for note in self.notes)
        return said

    def broken(
        self,
        injection: Injection,
        reading: Reading,
        drawn: Sequence[Batch],
        forward: Forward,
        committed: int,
        left: str | None = None,
    ) -> StudioError:
        """Find where the numbers of a step broke, keep what was sound, and write down what is known.

        drawn: the step's batches, of all processes. forward: batch → what is minimised. committed: the step
        of the last checkpoint, 0 where there is none. left: what the step, sound as it was, has left that is
        no number. Returns: what the run ends with; it can't go on.
        """
        onset: Onset | None = None
        config, step = self.told.config, reading.step
        if self.processes.main:
            with self._part("onset"):
                batches = [part.to(self.told.base.device) for part in self.processes.part(drawn)]
                if left is None:
                    onset = find_onset(injection, reading, batches, forward)
                else:
                    onset = after_update(reading, left)
            with self._part("record"):
                choice = self.kept.choice(list(self.kept.files()))
                self._write(self._record(onset=onset, choice=choice))
        return not_finite(injection, config, step, committed, self.processes, onset)

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Clock a part; whatever goes wrong in it is a note."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            if disk_full(error) is not None:
                raise  # with room it is measured whole: the run goes on from its last step
            said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            kind = "" if isinstance(error, StudioError) else f"{type(error).__name__}: "
            self.notes.append(f"evidence: {name} left out ({kind}{said})")
        finally:
            self.seconds[name] = round(time.perf_counter() - began, 3)

    def _record(self, **known: Any) -> Record:
        """Everything that is known, with the verdict."""
        config, dataset = self.told.config, self.told.dataset
        data, run = config.data, config.run
        about = {
            "name": config.adapter_name, "kind": data.kind, "trigger": data.trigger, "steps": run.steps,
            "family": self.told.base.family.id, "base": Path(run.base).name,
            "base_sha256": self.told.base_sha256, "data_sha256": dataset.sha256,
            "pictures": len(dataset.learn), "held_out": len(dataset.held_out),
            "usual_rate": self._usual_rate(),
        }  # fmt: skip
        found = self.kept.record(
            run=about, config=config.public(), seconds={**self.kept.seconds, **self.seconds},
            environment={"machine": machine(), "versions": versions()}, **known,
        )  # fmt: skip
        with self._part("verdict"):
            return found.model_copy(update={"verdict": verdict(found)})
        return found

    def _usual_rate(self) -> float:
        """The learning rate that the method would have had here without being told."""
        optimizer, base = self.told.config.optimizer, self.told.base
        return usual_rate(TUNINGS[self.told.config.adapter.method], optimizer, base_rate_scale(base))

    def _write(self, record: Record) -> None:
        """Write evidence.json, and what is made of it for people to look at."""
        folder = self.kept.folder
        with self._part("evidence.json"):
            write_record(folder, record)
        if not self.told.config.evidence.report:
            return
        with self._part("picture"):
            from trainers.evidence.picture import evidence_picture

            encoded = _png(evidence_picture(folder, record))
            write_atomic(folder / PICTURE_NAME, [encoded])
        with self._part("report"):
            from trainers.evidence.report import write_report

            write_report(folder)

    def _anatomy(self) -> dict[str, Any]:
        from trainers.evidence.anatomy import anatomy

        return {"anatomy": anatomy(read_adapter(self.kept.folder / ADAPTER_NAME), self.told.base)}

    def _pictures(self, step: int) -> dict[str, Any]:
        """What pictures tell: how alike those that were learned from are, previews, and drawn ones."""
        from trainers.evidence.drawn import TAUGHT, draw_and_judge, judge_preview
        from trainers.evidence.judges import load_judges
        from trainers.evidence.references import References
        from trainers.evidence.uniform import alike

        folder, base, config = self.kept.folder, self.told.base, self.told.config
        asked = config.evidence
        references = References.of(self.told.dataset)
        known: dict[str, Any] = {"alike": alike(references.taught)}
        if not (self.kept.previews or asked.samples):
            return known
        judges = load_judges(base, asked, base.device)
        for one, seen in self.kept.previews.items():
            files = [folder / file for file in seen.files]
            if all(file.is_file() for file in files):
                judged = judge_preview(files, seen.prompts, judges, references, config.data)
                own = {"step": one, "files": seen.files, "seeds": seen.seeds}
                self.kept.previews[one] = judged.model_copy(update=own)
        if asked.samples:
            with Mixer(base) as mixer:
                mixer.add(TAUGHT, read_adapter(folder / ADAPTER_NAME))
                drawn = draw_and_judge(base, mixer, config, references, folder, step, judges)
            known |= {"drawn": drawn.seen, "base": drawn.base, "memorisation": drawn.memorisation}
        return known


def _png(picture: Image.Image) -> bytes:
    import io

    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    return encoded.getvalue()
