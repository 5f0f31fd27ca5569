"""Spoilt bases, in one file and in a folder: refused in one line or opened, soon and in little memory."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.model_files_mutated import MEGABYTES, SECONDS, memory
from tests.faults.model_files_mutations import mutated, mutated_json
from tests.faults.model_files_parts import HEADER
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

LONGEST = 500  # characters of a refusal: paths stand in them
ENOUGH = 5  # failures, after which no more is tried
LOADED = 8  # of so many that open, one is loaded as well


def run(task: Task, tally: Tally) -> None:
    """Spoil a base's file, or one file of its folder, and open it; of some that open, load them."""
    import torch

    torch.set_num_threads(1)
    folder, file = _sound()
    _opened(folder, True)
    _opened(file, True)
    worst = {"longest (s)": 0.0, "most memory (MB)": 0.0}
    still = 0
    for number in range(task.count):
        chance = random.Random(f"{task.seed} {number}")
        path, done, must = _spoilt(folder, file, task.folder / "bad", chance)
        before, began = memory(reset=True), time.process_time()
        problem, opened = _tried(path, number % LOADED == 0)
        took, grew = time.process_time() - began, memory() - before
        still += opened
        if opened and must == HEADER:
            problem = problem or f"it was opened, and had to be {must}"
        if took > SECONDS * (5 if number % LOADED == 0 else 1):
            problem = problem or f"it took {took:.2f} s"
        if grew > MEGABYTES:
            problem = problem or f"it took {grew:.0f} MB"
        if number % LOADED:
            worst["longest (s)"] = max(worst["longest (s)"], took)
        worst["most memory (MB)"] = max(worst["most memory (MB)"], grew)
        tally.happened(f"base {number}: {done}", problem)
        shutil.rmtree(task.folder / "bad")
        if len(tally.failures) >= ENOUGH:
            break
    for name, value in worst.items():
        tally.measured(name, value)
    tally.measured("still opened", still)


@cache
def _sound() -> tuple[Path, Path]:
    """The random base as a folder and as one file, once in this process."""
    from pipelines.bases.source import open_source
    from pipelines.bases.writing import write_base
    from tests.tiny import save_tiny_pipeline

    kept = tempfile.TemporaryDirectory(prefix="pigment-bases-")
    _KEPT.append(kept)
    folder = save_tiny_pipeline(Path(kept.name) / "base")
    file = Path(kept.name) / "base.safetensors"
    write_base(open_source(folder), file, layout="file")
    return folder, file


_KEPT: list[Any] = []


def _spoilt(folder: Path, file: Path, place: Path, chance: random.Random) -> tuple[Path, str, str]:
    """Write a spoilt base: its path, what was done, what has to come of it."""
    place.mkdir()
    if chance.random() < 0.4:
        raw, done, must = mutated(file.read_bytes(), chance)
        (place / "base.safetensors").write_bytes(raw)
        return place / "base.safetensors", f"one file: {done}", must
    bad = shutil.copytree(folder, place / "base")
    target = chance.choice(sorted(one for one in bad.rglob("*") if one.suffix in (".json", ".safetensors")))
    name = target.relative_to(bad).as_posix()
    if target.suffix == ".json":
        raw, done = mutated_json(target.read_bytes(), chance)
        target.write_bytes(raw)
        return bad, f"{name}: {done}", ""
    raw, done, must = mutated(target.read_bytes(), chance)
    target.write_bytes(raw)
    return bad, f"{name}: {done}", must


def _tried(path: Path, load: bool) -> tuple[str | None, bool]:
    """(what was wrong with how a base was opened, whether it was)."""
    from pipelines.errors import StudioError

    try:
        _opened(path, load)
    except StudioError as refusal:
        said = str(refusal).replace(str(path), "")
        plain = "\n" not in said and len(said) <= LONGEST and _shown(said)
        return None if plain else f"a refusal of {len(said)} characters: {said[:200]!r}", False
    except Exception as error:
        import traceback

        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        return f"{type(error).__name__}: {str(error)[:160]} ({where})", False
    return None, True


def _shown(text: str) -> bool:
    """Whether a terminal and a log can take a text."""
    try:
        text.encode()
    except UnicodeError:
        return False
    return True


def _opened(path: Path, load: bool) -> None:
    from pipelines.base import load_base
    from pipelines.bases.describing import describe
    from pipelines.bases.source import open_source

    describe(open_source(path))
    if load:
        load_base(path, device="cpu")


def _no_limits(patch: MonkeyPatch) -> None:
    patch.setattr("pipelines.formats.container.MAX_HEADER_BYTES", 1 << 40)
    patch.setattr("pipelines.formats.container._check_extent", lambda *given: None)


PLANTS = {"a header's limits and places aren't looked at": _no_limits}
