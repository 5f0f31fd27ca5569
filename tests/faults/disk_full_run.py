"""A training on a disk that fills up, or refuses one call: it pauses, and goes on when there is room."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest import MonkeyPatch

from tests.faults.disk_full_calls import Refusing
from tests.faults.disk_full_space import Space, forked
from tests.faults.ground import ground
from tests.faults.power_cut_run import tiny_config
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainers.config import TrainConfig

FULL, BROKEN = "error: paused: disk full", "error: "


def prepare() -> None:
    """Import here what forks need, and make what they learn from."""
    import torch

    import trainers.loop  # noqa: F401
    from pipelines.bases.libraries import load_libraries

    load_libraries()
    ground()
    torch.set_num_threads(1)


def trained(config: TrainConfig) -> tuple[int, list[str]]:
    """Train as the command line does: (exit code, lines on standard error)."""
    from trainers.__main__ import _attempt
    from trainers.processes import ALONE

    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        code = _attempt(config, argparse.Namespace(fresh=False, json=True, anyway=False), ALONE)
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    return code, [line for line in lines if "test: without" not in line]


def ended(folder: Path) -> dict[str, Any]:
    """What a run's log says last, of its end."""
    from trainers import events

    done = [event for event in events.read(folder) if event.kind == "done"]
    return done[-1].data if done else {}


def losses(folder: Path) -> dict[int, set[float]]:
    """Every loss that the log tells of, by step: one each, where going on repeats it exactly."""
    from trainers import events

    found: dict[int, set[float]] = {}
    for event in events.read(folder):
        if event.kind == "step":
            found.setdefault(event.step, set()).add(event.data["loss"])
    return found


def left_over(folder: Path) -> str | None:
    """What of a refused write is still there; None where it was cleared away, and what is kept is whole."""
    from pipelines.formats import read_adapter
    from trainers import checkpoint

    half = [path for path in folder.rglob(".*") if path.name.endswith(".tmp") or "writing" in path.name]
    if half:
        return f"half written and kept: {half[0].relative_to(folder)}"
    if notes := checkpoint.latest(folder / "checkpoints")[1]:
        return notes[0]
    for path in (*folder.glob("adapter.safetensors"), *(folder / "candidates").glob("step-*.safetensors")):
        read_adapter(path)
    return None


def unbroken(root: Path, **fields: Any) -> dict[str, Any]:
    """What a training comes to that nothing happens to: its end, its losses, the bytes it takes."""

    def act() -> dict[str, Any]:
        config = tiny_config(root, **fields)
        code, lines = trained(config)
        assert code == 0, lines
        paths = [path for path in root.rglob("*") if path.is_file()]
        taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in paths)
        known = {str(step): sorted(values) for step, values in losses(config.run.output).items()}
        return {**ended(config.run.output), "losses": known, "bytes": taken}

    root.mkdir()
    answer = forked(act)
    assert "broke" not in answer, answer["broke"]
    return answer


def goes_on(config: TrainConfig, wanted: dict[str, Any]) -> str | None:
    """Train on to the end: what isn't as in the run that nothing happened to."""
    code, lines = trained(config)
    if code != 0:
        return f"it doesn't go on: {lines}"
    if ended(config.run.output).get("sha256") != wanted["sha256"]:
        return "going on ended in another adapter"
    known = {str(step): sorted(values) for step, values in losses(config.run.output).items()}
    # A step whose line the full disk didn't take is missing in the log, but none has two losses.
    if any(values != wanted["losses"][step] for step, values in known.items()):
        return "going on gave other losses"
    return left_over(config.run.output)


def outcome(code: int, lines: list[str], full: bool, folder: Path) -> str | None:
    """What is wrong with how a run ended that was refused something; None: nothing.

    full: for lack of room, which a run may only do without where nothing is missing in the end.
    """
    from trainers.evidence.record import read_record

    if code == 0:
        whole = not full or read_record(folder) is not None
        return None if whole else "it ended without what was measured, and didn't pause"
    if len(lines) != 1 or not lines[0].startswith(FULL if full else BROKEN) or "Traceback" in lines[0]:
        return f"it said {lines}"
    return None


@contextmanager
def filled_when_open(space: Space, free: int) -> Iterator[None]:
    """Let the disk fill up when a run has opened its folder, after room was asked for."""
    from trainers import loop

    real = loop.open_run

    def open_run(*arguments: Any, **more: Any) -> Path:
        folder = real(*arguments, **more)
        space.leave(free)
        return folder

    with MonkeyPatch.context() as patch:
        patch.setattr(loop, "open_run", open_run)
        yield


def at_level(root: Path, free: int, early: bool, wanted: dict[str, Any]) -> dict[str, Any]:
    """In a fork: train with so many bytes free, then with room. early: they are few from the start."""

    def act() -> dict[str, Any]:
        space = Space.mounted(root)
        config = tiny_config(root)
        if early:
            space.leave(free)
            code, lines = trained(config)
            if code == 0:
                return {}
            said = f"error: disk has {space.free // 1_000_000} MB free"
            few = len(lines) == 1 and lines[0].startswith(said)
            problem = None if few else f"it said {lines}"
            if config.run.output.exists():
                problem = problem or "it had begun to write"
        else:
            with filled_when_open(space, free):
                code, lines = trained(config)
            log = config.run.output / "events.jsonl"
            if code == 0 and "No space left" not in (log.read_text() if log.exists() else ""):
                return {}
            problem = outcome(code, lines, True, config.run.output) or left_over(config.run.output)
        space.make_room()
        return {"happened": True, "problem": problem or goes_on(config, wanted)}

    return forked(act)


def levels(task: Task, tally: Tally) -> None:
    """Train with as many levels of free space as asked for: a fifth of them from the start."""
    prepare()
    wanted = unbroken(task.folder / "unbroken")
    early = max(1, task.count // 5)
    for number in range(3 * task.count):
        if tally.tried >= task.count:
            break
        root = task.folder / f"disk-{number}"
        root.mkdir()
        if number < early:
            free = number * 180_000_000 // early
        else:
            free = int(wanted["bytes"] * (number - early) / (task.count - early))
            free = free if free < wanted["bytes"] else free * 7919 % wanted["bytes"]
        answer = at_level(root, free, number < early, wanted)
        what = f"{free:,} bytes free {'from the start' if number < early else 'from then on'}"
        tell(tally, what, answer)
    tally.measured("bytes of a run", wanted["bytes"])


def tell(tally: Tally, what: str, answer: dict[str, Any]) -> None:
    """Count what a fork answered."""
    if "broke" in answer:
        tally.happened(what, answer["broke"][-1500:])
    elif answer.get("happened"):
        tally.happened(what, answer["problem"])
    else:
        tally.didnt_happen()


def refused(root: Path, at: int | None, error: str, wanted: dict[str, Any] | None) -> dict[str, Any]:
    """In a fork: train with one call refused, then without. at None: count the calls."""

    def act() -> dict[str, Any]:
        root.mkdir()
        config, refusing = tiny_config(root, **SHORT), Refusing(root, at, error)
        with MonkeyPatch.context() as patch:
            refusing.put_in(patch)
            code, lines = trained(config)
        if wanted is None or not refusing.met:
            return {"calls": refusing.count}
        problem = outcome(code, lines, error == "ENOSPC", config.run.output) or left_over(config.run.output)
        return {
            "happened": True, "met": refusing.met, "problem": problem or goes_on(config, wanted),
        }  # fmt: skip

    return forked(act)


SHORT: dict[str, Any] = {
    "steps": 2, "checkpoint_every": 1, "preview_every": 2, "evaluate_every": 1, "report": True,
}  # fmt: skip


def calls(task: Task, tally: Tally) -> None:
    """Refuse each call of a short training once, with each error; fewer where the task isn't whole."""
    prepare()
    wanted = unbroken(task.folder / "unbroken", **SHORT)
    count = refused(task.folder / "counted", None, "ENOSPC", None)["calls"]
    every: list[tuple[int, str]] = [(at, error) for at in range(1, count + 1) for error in ("ENOSPC", "EIO")]
    if task.count < len(every) and not task.whole:
        stride = len(every) / task.count
        every = [every[int(number * stride + number % 2) % len(every)] for number in range(task.count)]
    for number, (at, error) in enumerate(every):
        answer = refused(task.folder / f"disk-{number}", at, error, wanted)
        tell(tally, f"{error} at call {at} ({answer.get('met', '')})", answer)
    tally.measured("calls", count)


Plants = dict[str, Callable[[MonkeyPatch], None]]


def swallowed(patch: MonkeyPatch) -> None:
    """What of a checkpoint the disk doesn't take is passed over in silence."""
    from trainers import checkpoint

    def quiet(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            with suppress(OSError):
                real(*arguments)

        return call

    for name in ("_write_synced", "sync_folder"):
        patch.setattr(checkpoint, name, quiet(getattr(checkpoint, name)))


def no_room_asked_for(patch: MonkeyPatch) -> None:
    """A run begins whatever is free."""
    from trainers import loop, run_folder

    for module in (loop, run_folder):
        patch.setattr(module, "check_room", lambda *_: None)


def temporary_kept(patch: MonkeyPatch) -> None:
    """What couldn't be written whole stays where it was begun."""
    real = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if not self.name.endswith(".tmp"):
            real(self, missing_ok=missing_ok)

    patch.setattr(Path, "unlink", unlink)


LEVEL_PLANTS: Plants = {"no check of room": no_room_asked_for}
CALL_PLANTS: Plants = {"ENOSPC swallowed": swallowed, "temporary files kept": temporary_kept}
