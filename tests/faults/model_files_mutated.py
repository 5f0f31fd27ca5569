"""Spoilt adapter files through every reader: our refusal in one line or a sound adapter, soon and in little
memory.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.model_files_mutations import mutated, mutated_json
from tests.faults.model_files_parts import HEADER, MAY, NUMBERS
from tests.faults.model_files_seeds import MODEL, OTHERS, PEFT_CONFIG, SIDECAR, Seed, seeds, tiny_base
from tests.faults.suites import KEPT, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.library import Library

BATCH = 250  # files that one process is given
SECONDS, MEGABYTES = 1.0, 200.0  # of the processor and of memory, that any reader may take for a file
AT_ONCE = 2  # processes
HANGS = 600.0  # seconds for a batch
LONGEST = 400  # characters of a refusal
OFTEN = 3  # times, that files of words are taken for one of another kind: their names are free
SIDE = 0.02  # of the files, that have a spoilt sidecar beside them and are sound
WHOLE = 5000  # files, from which on other families' are among them

Ask = Callable[[Path], Any]


def run(task: Task, tally: Tally) -> None:
    """Spoil `task.count` files and give each to every reader and the library's import."""
    import torch

    torch.set_num_threads(1)
    tiny_base()
    found = seeds(("sd15", *OTHERS) if task.count >= WHOLE else ("sd15",))
    _warm(found, task.folder)
    worst: Counter[str] = Counter()
    for row in _rows(found, task):
        tally.happened(row["what"], row["problem"])
        for name in ("seconds", "megabytes"):
            worst[name] = max(worst[name], row[name])
        worst["read"] += row["read"]
        if len(tally.failures) >= min(KEPT, max(3, task.count // 1000)):
            break
    tally.measured("longest (s)", worst["seconds"], most=SECONDS)
    tally.measured("most memory (MB)", worst["megabytes"], most=MEGABYTES)
    tally.measured("still read", worst["read"])


def _warm(found: tuple[Seed, ...], folder: Path) -> None:
    """Read each seed once, so that what is imported and cached at first use counts for no file."""
    from studio.library import Library
    from studio.workspace import Workspace

    library = Library(Workspace.open(folder / "warm", own=False))
    for number, seed in enumerate(found):
        row = _tried(folder / "warm" / str(number), seed.files, "", MAY, library)
        if row["problem"] or not row["read"]:
            raise AssertionError(f"the sound file {seed.name} isn't read: {row['problem']}")
    shutil.rmtree(folder / "warm")


def _rows(found: tuple[Seed, ...], task: Task) -> Iterator[dict[str, Any]]:
    """Try all files in child processes, some at a time; a row for each."""
    size = min(BATCH, max(25, task.count // 8))
    batches = [range(first, min(task.count, first + size)) for first in range(0, task.count, size)]
    for first in range(0, len(batches), AT_ONCE):
        now = [_begun(found, task, numbers) for numbers in batches[first : first + AT_ONCE]]
        for begun in now:
            yield from _ended(begun)


@dataclass(frozen=True)
class _Begun:
    """A child process, the files that it tries, and where it writes what came of them."""

    child: int
    numbers: range
    answers: Path


def _begun(found: tuple[Seed, ...], task: Task, numbers: range) -> _Begun:
    """Try some files in a child process with little room to grow."""
    answers = task.folder / f"answers-{numbers[0]}.jsonl"
    child = os.fork()
    if not child:
        try:
            _limited()
            _batch(found, task, numbers, answers)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return _Begun(child, numbers, answers)


def _ended(begun: _Begun) -> list[dict[str, Any]]:
    """Wait for a child process: a row for each of its files, its own end included where that was no good."""
    child, numbers, answers = begun.child, begun.numbers, begun.answers
    ended, status, until = 0, 0, time.monotonic() + HANGS
    while not ended and time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0 if ended else 0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    rows = [json.loads(line) for line in answers.read_text().splitlines()] if answers.is_file() else []
    if status or len(rows) != len(numbers):
        what = f"file {numbers[min(len(rows), len(numbers) - 1)]}"
        problem = f"the reading process ended with {os.waitstatus_to_exitcode(status)}"
        rows.append({"what": what, "problem": problem, "seconds": 0.0, "megabytes": 0.0, "read": 0})
    answers.unlink(missing_ok=True)
    return rows


def _limited() -> None:
    """Leave this process room for no more than a reader may take, twice over."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used + int(2 * MEGABYTES * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _batch(found: tuple[Seed, ...], task: Task, numbers: range, answers: Path) -> None:
    from studio.library import Library
    from studio.workspace import Workspace

    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # the disk isn't what is measured here
    with (
        tempfile.TemporaryDirectory(dir=shared, prefix="pigment-mutated-") as scratch,
        answers.open("w") as out,
    ):
        library = Library(Workspace.open(Path(scratch) / "workspace", own=False))
        for number in numbers:
            chance = random.Random(f"{task.seed} {number}")
            seed = chance.choices(found, [OFTEN if one.name.endswith("words") else 1 for one in found])[0]
            files, done, must = _spoilt(seed, chance)
            what = f"file {number}, {seed.name}: {done}"
            row = _tried(Path(scratch) / str(number), files, what, must, library)
            out.write(json.dumps(row) + "\n")
            out.flush()


def _spoilt(seed: Seed, chance: random.Random) -> tuple[dict[str, bytes], str, str]:
    """A seed's files with one of them spoilt; what was done; what has to come of it."""
    if seed.main != MODEL and chance.random() < 0.4:
        raw, done = mutated_json(seed.files[PEFT_CONFIG], chance)
        return {**seed.files, PEFT_CONFIG: raw}, f"{PEFT_CONFIG}: {done}", MAY
    if seed.main == MODEL and chance.random() < SIDE:
        said = {"activation text": "a, b", "description": "x", "notes": "y", "preferred weight": 0.8}
        raw, done = mutated_json(json.dumps(said).encode(), chance)
        return {**seed.files, SIDECAR: raw}, f"{SIDECAR}: {done}", MAY
    raw, done, must = mutated(seed.files[seed.main], chance)
    return {**seed.files, seed.main: raw}, done, must


def _tried(place: Path, files: Mapping[str, bytes], what: str, must: str, library: Library) -> dict[str, Any]:
    """Give one adapter to every reader: a row with what was wrong with that, None where nothing was."""
    for name, raw in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(raw)
    path = place / MODEL if MODEL in files else place
    row: dict[str, Any] = {"what": what, "problem": None, "seconds": 0.0, "megabytes": 0.0, "read": 0}
    for door, ask in (("inspect", _inspect), ("read", _read), ("import", lambda one: _import(one, library))):
        before, began = memory(reset=True), time.process_time()
        problem, passed = _asked(ask, path)
        row["seconds"] = max(row["seconds"], time.process_time() - began)
        row["megabytes"] = max(row["megabytes"], memory() - before)
        if passed and (must == HEADER or (must == NUMBERS and door != "inspect")):
            problem = f"it was taken, and had to be {must}"
        row["read"] += passed and door == "read"
        if problem and not row["problem"]:
            row["problem"] = f"{door}: {problem}"
    for name, most in (("seconds", SECONDS), ("megabytes", MEGABYTES)):
        if row[name] > most and not row["problem"]:
            row["problem"] = f"it took {row[name]:.3g} {name}, at most {most:g} may be"
    shutil.rmtree(place)
    return row


def _asked(ask: Ask, path: Path) -> tuple[str | None, bool]:
    """(what was wrong with an answer, whether the file was taken)."""
    from pipelines.errors import AdapterError

    try:
        return ask(path), True
    except AdapterError as refusal:
        said = str(refusal)
        if "\n" in said or "\r" in said or len(said) > LONGEST or not said:
            return f"a refusal of {len(said)} characters: {said[:200]!r}", False
        try:
            said.encode()
        except UnicodeError:
            return f"a refusal that can't be shown: {said[:200]!r}", False
        return None, False
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__}: {str(error)[:120]} ({Path(place.filename).name}:{place.lineno})",
            False,
        )


def _inspect(path: Path) -> str | None:
    from pipelines.formats import inspect_adapter

    info = inspect_adapter(path)
    json.dumps(
        info, ensure_ascii=False
    ).encode()  # as the index of a folder keeps it, and a terminal shows it
    return None


def _read(path: Path) -> str | None:
    """Read an adapter whole; what isn't sound about it."""
    from pipelines.formats import read_adapter

    adapter = read_adapter(path)
    for module, factor in adapter.factors.items():
        if not all(bool(part.isfinite().all()) for part in factor.parts.values()):
            return f"{module} holds numbers that aren't finite"
        if not abs(factor.alpha) < float("inf"):
            return f"{module} has an alpha of {factor.alpha}"
    for vectors in adapter.tokens.values():
        if not all(bool(vector.isfinite().all()) for vector in vectors.values()):
            return "a word holds numbers that aren't finite"
    texts = (adapter.name, *adapter.factors, *adapter.tokens, *adapter.triggers, *adapter.metadata.values())
    "\n".join(texts).encode()
    if any(ord(sign) < 32 for name in (adapter.name, *adapter.factors, *adapter.tokens) for sign in name):
        return "a name has signs that no name has"
    return _on_base(adapter)


def _on_base(adapter: Any) -> str | None:
    """Put an adapter on the base that it was made for; what comes of it is a mix of numbers, or a refusal."""
    from pipelines.errors import AdapterError
    from pipelines.mixer import Mixer

    if adapter.family != "sd15":
        return None
    base = tiny_base()
    mixer = Mixer(base)
    try:
        mixer.add("own", adapter)
        mixer.set({"own": 1.0})
    except AdapterError as refusal:
        return f"a refusal of several lines: {str(refusal)[:200]!r}" if "\n" in str(refusal) else None
    finally:
        mixer.restore()
    return None


def _import(path: Path, library: Library) -> str | None:
    """Take an adapter into a library; what is kept is the file as it came."""
    from pipelines.errors import AdapterError
    from pipelines.files import file_sha256
    from studio.importing import beside, take, take_folder

    taken = take_folder(library, path) if path.is_dir() else take(library, beside(path))
    for _, reason in taken.refused:
        raise AdapterError(reason)
    entry = library.get(taken.entries[0][0].id)
    if path.is_file() and entry.sha256 != file_sha256(path) and SIDECAR not in os.listdir(path.parent):
        return "the library says another hash than the file's"
    if file_sha256(entry.path) != entry.sha256:
        return "the library keeps another file than it says"
    return None


def memory(reset: bool = False) -> float:
    """Megabytes: what this process has now where `reset`, which begins to count anew; else the most since."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:" if reset else "VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0


def needs() -> str | None:
    """Why memory can't be measured here."""
    if sys.platform != "linux" or not os.access("/proc/self/clear_refs", os.W_OK):
        return "the most memory of a process is only told anew on Linux"
    return None


def _any_name(patch: MonkeyPatch) -> None:
    import re

    patch.setattr("pipelines.formats.container._KEY", re.compile(".*", re.DOTALL))


def _any_number(patch: MonkeyPatch) -> None:
    patch.setattr("pipelines.adapter._unsound", lambda parts, alpha: None)


PLANTS: dict[str, Callable[[MonkeyPatch], None]] = {
    "numbers aren't looked at": _any_number,
    "any name is let through": _any_name,
    "headers of any length": lambda patch: patch.setattr(
        "pipelines.formats.container.MAX_HEADER_BYTES", 1 << 40
    ),
    "keys may stand twice": lambda patch: patch.setattr("pipelines.formats.container._no_duplicates", dict),
    "places aren't compared": lambda patch: patch.setattr(
        "pipelines.formats.container._check_extent", lambda *given: None
    ),
    "the stated hash isn't compared": lambda patch: patch.setattr(
        "pipelines.formats.reading.is_ours", lambda raw: False
    ),
}
