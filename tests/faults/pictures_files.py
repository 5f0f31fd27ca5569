"""Odd and bad picture files: dropped on the page's set of pictures, and lying in a folder to train with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.faults.pictures_bad import bad
from tests.faults.pictures_case import Case
from tests.faults.pictures_made import art, saved
from tests.faults.pictures_odd import odd
from tests.faults.suites import Plant, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.datasets import Datasets

FILES = 299
"""In the table."""
FIRST = (
    "turned 6.jpg", "ramp 16 bits.png", "opacity of 8 bits, colour 6.png", "cut at 0.5.jpg", "moving.gif",
    "really large.png", "more rows.png",
)  # fmt: skip
"""One for each safeguard, so that few files are enough where one is taken away."""
EACH = 5
"""One good file lies between so many."""
SLOW = 20.0
"""Seconds that a file may take, held where the machine is quiet."""


def chosen(count: int) -> list[Case]:
    """So many of the table: FIRST, and others spread over it."""
    cases = odd() + bad()
    assert len(cases) == FILES == len({one.name for one in cases}), f"{len(cases)} files in the table"
    first = [one for one in cases if one.name in FIRST][:count]
    rest, left = [one for one in cases if one.name not in FIRST], min(count, FILES) - len(first)
    return first + [rest[number * len(rest) // left] for number in range(left)]


def drop(task: Task, tally: Tally) -> None:
    """Drop them all at once, good ones between."""
    from studio.datasets import Datasets
    from studio.workspace import Workspace

    cases, files = chosen(task.count), []
    good = {f"good {number}.png": art(f"good {number}") for number in range(max(1, len(cases) // EACH))}
    contents = {one.name: one.make for one in cases}
    contents |= {name: (lambda p=pixels: saved(p, "PNG")) for name, pixels in good.items()}
    for number, name in enumerate(sorted(contents, key=lambda name: hash_of(name, task.seed))):
        path = task.folder / f"{number:05d}"
        path.write_bytes(contents[name]())
        files.append((path, name))
    datasets = Datasets(Workspace.open(task.folder / "workspace", own=False))
    made = datasets.new()
    began = time.monotonic()
    with without_here_too(task):
        taken = datasets.take(made.id, files)
    tally.measured("seconds a file", (time.monotonic() - began) / len(files), most=SLOW, held=task.whole)
    said: dict[str, list[str]] = {}
    for one in taken.refused:
        said.setdefault(one.name, []).append(one.reason)
    items = {item.name: item for item in datasets.get(made.id).items}
    for case in cases:
        tally.happened(case.name, judged(case, said.get(case.name, []), datasets, items))
    lost = [name for name in good if name not in items or not same(datasets, items[name].sha256, good[name])]
    tally.measured("good files lost", len(lost), most=0)
    strangers = set(said) - {case.name for case in cases}
    tally.measured("lines of files that weren't dropped", len(strangers), most=0)
    left = list((task.folder / "workspace" / "cache" / "pictures").glob("drop-*"))
    tally.measured("folders left", len(left), most=0)


@contextmanager
def without_here_too(task: Task) -> Iterator[None]:
    """Let the processes that this one starts miss the same safeguard."""
    from pytest import MonkeyPatch

    with MonkeyPatch.context() as patch:
        for name, value in task.environment().items():
            patch.setenv(name, value)
        yield


def hash_of(name: str, seed: int) -> int:
    """A number by which files are put into an order of chance."""
    import zlib

    return zlib.crc32(f"{seed} {name}".encode())


def judged(case: Case, reasons: Sequence[str], datasets: Datasets, items: dict) -> str | None:
    """What is wrong with what became of a file that was dropped; None: nothing."""
    if (case.name in items) == bool(reasons) or len(reasons) > 1:
        return f"neither taken nor refused, or both: {list(reasons)}"
    root = str(datasets.workspace.root)
    if reasons:
        return f"a path is told: {reasons[0]}" if root in reasons[0] else case.wrong_refusal(reasons[0])
    from trainers.images import read_picture

    item = items[case.name]
    source = read_picture(datasets.pictures.get(item.sha256).path)
    got = np.asarray(source.image)
    if (item.height, item.width) != got.shape[:2] or item.notes != source.notes:
        return (
            f"the index says {item.width}×{item.height}, {item.notes}, the file {got.shape}, {source.notes}"
        )
    return case.wrong_picture(got, item.notes) or wrong_preview(datasets, item.sha256, got)


def wrong_preview(datasets: Datasets, sha256: str, got: np.ndarray) -> str | None:
    """What is wrong with the small picture of the page; None: it shows the same."""
    path = datasets.pictures.preview(sha256)
    if not path.is_file():
        return "has no small picture"
    with Image.open(path) as opened:
        small = np.asarray(opened.convert("RGB"), dtype=np.float64)
    share = min(1.0, 1024 / max(got.shape[:2]))
    wanted = tuple(max(1, round(side * share)) for side in got.shape[:2])
    if any(abs(one - other) > 1 for one, other in zip(small.shape[:2], wanted, strict=True)):
        return f"its small picture is {small.shape}, {wanted} was wanted"
    for part in (np.s_[: len(got) // 2 or 1], np.s_[:, : got.shape[1] // 2 or 1]):
        half = small[: small.shape[0] // 2 or 1] if part == np.s_[: len(got) // 2 or 1] else None
        half = half if half is not None else small[:, : small.shape[1] // 2 or 1]
        if np.abs(half.mean((0, 1)) - got[part].mean((0, 1))).max() > 16:
            return "its small picture shows something else"
    return None


def same(datasets: Datasets, sha256: str, pixels: np.ndarray) -> bool:
    """Whether a stored picture has exactly these pixels."""
    from trainers.images import read_picture

    return bool((np.asarray(read_picture(datasets.pictures.get(sha256).path).image) == pixels).all())


def folder(task: Task, tally: Tally) -> None:
    """Let each lie in a folder with a good one, as a training is given it."""
    from pipelines.errors import PictureError
    from trainers.config import DataConfig
    from trainers.dataset import load_dataset

    good = saved(art("good"), "PNG")
    slowest = 0.0
    for number, case in enumerate(chosen(task.count)):
        place = task.folder / str(number)
        place.mkdir()
        (place / "a good one.png").write_bytes(good)
        (place / case.name).write_bytes(case.make())
        began = time.monotonic()
        try:
            found = load_dataset(
                DataConfig(instance_images=place, instance_prompt="a zuv", trigger="zuv", held_out=0)
            )
            one = next(item for item in found.learn if item.name == case.name)
            problem = case.wrong_picture(np.asarray(one.layers()[0]), one.source.notes)
        except PictureError as error:
            named = case.name in str(error)
            problem = case.wrong_refusal(str(error)) if named else f"isn't named in {error}"
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
        slowest = max(slowest, time.monotonic() - began)
        tally.happened(case.name, problem)
    tally.measured("slowest in seconds", slowest, most=SLOW, held=task.whole)


# ── Safeguards, taken away


def _not_turned(patch: MonkeyPatch) -> None:
    patch.setattr("trainers.images._TURNS", {})


def _clipped(patch: MonkeyPatch) -> None:
    patch.setattr("trainers.rgb._from_many_bits", lambda image: lambda part: part.convert("L").convert("RGB"))


def _black_behind(patch: MonkeyPatch) -> None:
    patch.setitem(settings_data().BACKGROUNDS, "white", "black")


def settings_data() -> Any:
    """The module that knows the colours behind transparent parts."""
    from trainers.settings import data

    return data


def _cut_is_taken(patch: MonkeyPatch) -> None:
    patch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)


def _first_frame(patch: MonkeyPatch) -> None:
    patch.setattr("trainers.decoded.check_frames", lambda *_: None)


def _holes_are_taken(patch: MonkeyPatch) -> None:
    patch.setattr("trainers.decoded.check_whole", lambda *_: None)


def _no_cap(patch: MonkeyPatch) -> None:
    patch.setattr("trainers.decoded.MAX_PIXELS", 1 << 62)


FILE_PLANTS: dict[str, Plant] = {
    "not turned upright": _not_turned, "16 bits clipped": _clipped, "transparent turns black": _black_behind,
    "cut files taken": _cut_is_taken, "first frame taken": _first_frame, "no cap of pixels": _no_cap,
    "missing rows taken": _holes_are_taken,
}  # fmt: skip
