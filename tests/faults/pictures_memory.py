"""What heavy files take of the server's memory and of its decoder's: a process of its own drops them.

`python -m tests.faults.pictures_memory FOLDER COUNT` is that process; it answers in FOLDER/answer.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.pictures_heavy import Heavy, heavy
from tests.faults.pictures_made import art, saved
from tests.faults.suites import ROOT, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

MOST = {"server": 100.0, "decoder": 300.0, "training": 300.0}
"""MB that a file may take of each; of the server less, since it decodes nothing itself."""
HEAVY = 34
"""In the table."""
STATUS = "/proc/{}/status"


def here() -> str | None:
    """Why memory can't be measured on this system; None: it can."""
    return None if Path(STATUS.format("self")).is_file() else "the memory of processes is read from /proc"


def memory(task: Task, tally: Tally) -> None:
    """Drop heavy files one by one in another process, which measures."""
    found = heavy()
    assert len(found) == HEAVY, f"{len(found)} heavy files in the table"
    chosen = found[: task.count]
    for number, one in enumerate(chosen):
        one.make(task.folder / str(number))
    command = [sys.executable, "-m", __name__, str(task.folder), str(len(chosen))]
    subprocess.run(command, cwd=ROOT, env=task.environment(), check=True, timeout=1800)
    answers = json.loads((task.folder / "answer.json").read_text(encoding="utf-8"))
    for one, answer in zip(chosen, answers, strict=True):
        tally.happened(one.name, _problem(one, answer))
    for whose, most in MOST.items():
        tally.measured(f"MB of the {whose}", max(answer[whose] for answer in answers), most=most)


def _problem(one: Heavy, answer: dict[str, Any]) -> str | None:
    """What is wrong with what became of a file; None: nothing."""
    for whose, most in MOST.items():
        if answer[whose] > most:
            return f"took {answer[whose]:.0f} MB of the {whose}"
    lines = [f"{name}: {reason}" for name, reason in answer["refused"]]
    if one.taken is not None and one.taken != (answer["added"] == 1):
        return f"{answer['added']} pictures were added; {lines[:2]}"
    if not answer["added"] and not any(one.name in line for line in lines):
        return f"was refused without a line: {lines[:2]}"
    return "a line break in a line" if any("\n" in line for line in lines) else None


# ── The other process


def peak(pid: int | str = "self", *, afresh: bool = False) -> float:
    """MB of memory that a process had at most; afresh: count from now on."""
    if afresh:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    lines = Path(STATUS.format(pid)).read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def main(folder: Path, count: int) -> None:
    """Drop the first `count` heavy files that lie in `folder`, and measure."""
    from studio.datasets import Datasets
    from studio.decoder import Decoder
    from studio.workspace import Workspace

    tiny, taken = folder / "tiny", 0.0
    tiny.write_bytes(saved(art("tiny"), "PNG"))
    ask = Decoder.ask

    def measured(self: Decoder, path: Path, preview: Path | None) -> dict[str, Any]:
        """As `Decoder.ask`; what a picture takes is what the child takes more than for a tiny one."""
        nonlocal taken
        ask(self, tiny, preview)
        child = self._child
        had = 0.0 if child is None else peak(child.pid, afresh=True)
        answer = ask(self, path, preview)
        if child is not None and self._child is child:  # else its limit has ended it
            taken = max(taken, peak(child.pid) - had)
        return answer

    Decoder.ask = measured  # type: ignore[method-assign]
    datasets = Datasets(Workspace.open(folder / "workspace", own=False))
    datasets.take(datasets.new().id, [(tiny, "tiny.png"), (tiny, "tiny.txt"), (tiny, "metadata.csv")])
    answers = []
    for number, one in enumerate(heavy()[:count]):
        made, taken, had = datasets.new(), 0.0, peak(afresh=True)
        said = datasets.take(made.id, [(folder / str(number), one.name)])
        for item in datasets.get(made.id).items:  # a page asks for small ones after the cache was emptied
            datasets.pictures.preview(item.sha256).unlink()
            datasets.pictures.small(item.sha256, 128)
        server = peak() - had
        answers.append({
            "added": said.added, "refused": [(line.name, line.reason) for line in said.refused],
            "server": server, "decoder": taken, "training": _looked_at(folder / str(number)),
        })  # fmt: skip
    (folder / "answer.json").write_text(json.dumps(answers), encoding="utf-8")


def _looked_at(path: Path) -> float:
    """MB that checking a picture takes within a training."""
    from pipelines.errors import PictureError
    from trainers.images import read_picture

    had = peak(afresh=True)
    with suppress(PictureError):
        read_picture(path)
    return peak() - had


# ── Safeguards, taken away


def unbounded(patch: MonkeyPatch) -> None:
    """Neither what a format takes is looked at, nor is the decoder bounded."""
    patch.setattr("trainers.decoded.MAX_MEMORY", 1 << 62)
    patch.setattr("studio.decoding.limit", lambda *_: None)


def in_the_server(patch: MonkeyPatch) -> None:
    """Pictures are decoded in the server itself."""

    def ask(self: Any, path: Path, preview: Path | None) -> dict[str, Any]:
        from studio.decoding import answer

        return answer({"path": str(path), "preview": str(preview)})

    patch.setattr("studio.decoder.Decoder.ask", ask)


def unlimited_tables(patch: MonkeyPatch) -> None:
    """A table of captions may be as long as it likes."""
    patch.setattr("trainers.tables.MAX_TABLE_BYTES", 1 << 62)


def metadata_without_end(patch: MonkeyPatch) -> None:
    """A PNG may say as much as it likes beside its pixels."""
    patch.setattr("trainers.decoded.MAX_METADATA", 1 << 62)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
