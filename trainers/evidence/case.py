"""An adapter that is to be judged, and what it says of itself: its words, its settings, its step.

Nothing here loads torch.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, StudioError
from trainers.config import TrainConfig, load_config, validate
from trainers.evidence.candidates import Kept
from trainers.evidence.choice import choose
from trainers.evidence.record import EVIDENCE, SETS, Record, read_record
from trainers.run_folder import CONFIG_NAME
from trainers.settings import DataConfig
from trainers.wording import prompts

if TYPE_CHECKING:
    from pipelines.adapter import Adapter

_OF_OTHERS = ("captioner", "class_images", "instance_images")  # of the machine that taught it
_KEPT_OF_RUN = ("seed", "preview_steps", "preview_guidance", "preview_sampler", "preview_negative")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person says of an adapter; empty or None: as the adapter says itself.

    pictures: those that it was taught with; None: none are at hand. held_out: how many of them, the last by
    name, weren't learned from. samples: pictures per prompt, 0: none are drawn. judge, structure_judge: see
    EvidenceConfig.
    """

    pictures: Path | None = None
    trigger: str = ""
    prompt: str = ""
    class_prompt: str = ""
    kind: str = ""
    held_out: int | None = None
    samples: int | None = None
    judge: str = ""
    structure_judge: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """An adapter to be judged, and by what.

    out: folder that everything is written to. config: words, pictures and what is drawn; None: there are no
    words, so that only the adapter itself is looked at. pictures: whether those of `config` are at hand.
    before: what is known of its run already.
    """

    adapter: Adapter
    out: Path
    config: TrainConfig | None = None
    pictures: bool = False
    before: Record = field(default_factory=Record)

    @property
    def step(self) -> int | None:
        """The step of its run that the adapter is of; None where it doesn't say."""
        for name in ("steps", "ss_steps"):
            said = self.adapter.metadata.get(name, "")
            if said.isdecimal() and 0 < int(said) <= 1_000_000:
                return int(said)
        said = training(self.adapter).get("run", {}).get("steps")
        return said if isinstance(said, int) and said > 0 else None

    @property
    def settings(self) -> dict[str, Any]:
        """What is known of the run's settings, as a record has them."""
        return self.before.config or training(self.adapter)


def training(adapter: Adapter) -> dict[str, Any]:
    """The settings that an adapter carries, by section; empty where it carries none."""
    try:
        found = json.loads(adapter.metadata.get("training", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): part for name, part in found.items() if isinstance(part, dict)}


def case_of(adapter: Adapter, asked: Asked, out: Path, base: str = "pocket") -> Case:
    """Say how an adapter is judged without its run.

    base: the name of what it is drawn with. Raises: ConfigError, one line, for what is wrong or missing.
    """
    values = _values(adapter, asked, out, base)
    if values is None:
        return Case(adapter=adapter, out=out)
    return Case(adapter=adapter, out=out, config=validate(values), pictures=asked.pictures is not None)


def _values(adapter: Adapter, asked: Asked, out: Path, base: str) -> dict[str, Any] | None:
    """What a config is made of; None where nobody says any words."""
    said = training(adapter)
    known = {name: value for name, value in said.get("data", {}).items() if name not in _OF_OTHERS}
    trigger = asked.trigger or str(known.get("trigger") or "") or next(iter(adapter.triggers), "")
    if not trigger:
        if asked.pictures is None and not (asked.prompt or asked.class_prompt):
            return None
        raise ConfigError(f"{adapter.name!r} doesn't say which word calls it; give the trigger")
    kind = asked.kind or str(known.get("kind") or "subject")
    if trigger != known.get("trigger"):
        known = {}
    own, _ = prompts(kind, trigger, "")
    told = {
        "kind": kind,
        "trigger": trigger,
        "instance_prompt": asked.prompt or known.get("instance_prompt") or own,
        "class_prompt": asked.class_prompt or known.get("class_prompt") or "",
        "instance_images": asked.pictures or out,
    }
    if asked.held_out is not None:
        known = {name: value for name, value in known.items() if name not in ("held_out_share", "split_seed")}
        told["held_out"] = asked.held_out
    evidence: dict[str, Any] = {"judge": asked.judge, "structure_judge": asked.structure_judge}
    if asked.samples is not None:
        evidence["samples"] = asked.samples
    said_run = said.get("run", {})
    run = {name: said_run[name] for name in _KEPT_OF_RUN if name in said_run}
    own_run: dict[str, Any] = {"output": out, "base": base, "evaluate_every": 1}
    own_data = {name: value for name, value in known.items() if name in DataConfig.model_fields}
    full = {"data": {**own_data, **told}, "run": {**run, **own_run}, "evidence": evidence}
    try:
        validate(full)
    except ConfigError:  # its settings are another Pigment's; the words are enough
        return {"data": told, "run": own_run, "evidence": evidence}
    return full


def case_of_run(adapter: Adapter, run: Path, asked: Asked, out: Path) -> Case:
    """Say how an adapter of a run is judged: with the run's own settings, pictures and figures.

    asked: of it pictures (where they have been moved), samples and judges count.
    Raises: ConfigError where the folder is no run's.
    """
    config = load_config(run / CONFIG_NAME)
    data = {} if asked.pictures is None else {"instance_images": asked.pictures}
    changes: dict[str, dict[str, Any]] = {"data": data, "run": {"evaluate_every": 1}}
    given = {"samples": asked.samples, "judge": asked.judge, "structure_judge": asked.structure_judge}
    changes["evidence"] = {name: value for name, value in given.items() if value not in (None, "")}
    before = _before(run, config)
    if not before.measured:
        changes["evidence"]["measured_on"] = tuple(SETS)
    parts = {name: getattr(config, name).model_copy(update=update) for name, update in changes.items()}
    config = config.model_copy(update=parts)
    at_hand = Path(config.data.instance_images).is_dir()
    return Case(adapter=adapter, out=out, config=config, pictures=at_hand, before=before)


def _before(run: Path, config: TrainConfig) -> Record:
    """What a run has left of evidence: the whole record, or where it is damaged what each step came to."""
    try:
        found = read_record(run)
    except StudioError:
        found = None
    if found is None:
        with (
            tempfile.TemporaryDirectory() as name
        ):  # reading takes up a run, and may remove what it can't use
            aside = Path(name) / EVIDENCE
            aside.mkdir()
            for path in sorted((run / EVIDENCE).glob("step-*.json")):
                shutil.copyfile(path, aside / path.name)
            kept = Kept(Path(name), config.evidence)
            kept.read(until=10**9)
            found = kept.record()
            found = found.model_copy(update={"choice": choose(found)})
    return found.model_copy(update={"config": found.config or config.public()})
