"""The dataset doctor: each check finds its fault, and leaves good data alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import trainers.preparing
from pipelines.base import Base
from trainers.colours import Colours, coloured
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.doctor import CHECKS, Case, Finding, examine
from trainers.doctor.amounts import FEW, MANY
from trainers.doctor.case import look, marks, sharpness
from trainers.doctor.pictures import ALIKE_MARKS
from trainers.preparing import doctor_notes

Make = Callable[..., TrainConfig]
SIDE = 64
PLACES = ("on a table", "by the sea", "in deep snow", "under a tree", "at night", "in the kitchen")


def scene(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """A sharp picture of some shapes that is like no other seed's."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((size[1], size[0], 3), dtype=np.uint8)
    pixels[:] = rng.integers(0, 255, 3)
    for _ in range(12):
        top, left = rng.integers(0, size[1] - 8), rng.integers(0, size[0] - 8)
        height, width = rng.integers(8, 40, 2)
        pixels[top : top + height, left : left + width] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six good pictures with good captions."""
    path = tmp_path / "scenes"
    path.mkdir()
    for index, place in enumerate(PLACES):
        scene(index).save(path / f"{index}.png")
        (path / f"{index}.txt").write_text(f"a photo of a zuv robot {place}")
    return path


@pytest.fixture
def find(make_config: Make, folder: Path) -> Callable[..., list[Finding]]:
    """Examine the folder; fields by name go into the config."""

    def examined(**fields: Any) -> list[Finding]:
        usual = {"instance_images": folder, "steps": 200, "batch_size": 2, "held_out": 0}
        config = make_config(**{**usual, **fields})
        return examine(config.data, config.run, resolution=SIDE)

    return examined


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.kind, one.file) for one in findings]


def test_good_data_are_left_alone(find: Callable[..., list[Finding]]) -> None:
    assert find() == []


def _again(folder: Path) -> None:
    scene(2).resize((80, 80)).save(folder / "4.png", quality=70)


def _mirrored(folder: Path) -> None:
    scene(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "4.png")


def _blurred(folder: Path) -> None:
    scene(4).filter(ImageFilter.GaussianBlur(4)).save(folder / "4.png")


def _blank(folder: Path) -> None:
    Image.new("RGB", (96, 96), "teal").save(folder / "4.png")


def _small(folder: Path) -> None:
    scene(4, (50, 50)).save(folder / "4.png")


def _long(folder: Path) -> None:
    scene(4, (400, 100)).save(folder / "4.png")


def _said(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "4.txt").write_text(text)

    return write


FAULTS: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "near_duplicates": (_again, {}, "nearly the same as '2.png'"),
    "seen_before": (_again, {"held_out": 2}, "held out, but nearly the same as '2.png'"),
    "blur": (_blurred, {}, "is blurred at 64 pixels"),
    "blank": (_blank, {}, "nearly one colour"),
    "too_small": (_small, {}, "50×50 pixels and is enlarged 1.3 times"),
    "extreme_aspect": (_long, {}, "4.0 times as long as wide, and 50% of it is cut off"),
    "missing_trigger": (_said("a photo of a robot at night"), {}, "has no 'zuv'"),
    "caption_length": (
        _said("a photo of a zuv robot at night" + " and so on" * 20),
        {},
        "68 words, most have 9",
    ),
    "caption_unlike": (_said("zuv: screenshot of my mailbox"), {}, "shares no word with the others"),
    "caption_duplicates": (_said("A photo of a zuv robot, on a table"), {}, "is also that of 4.png"),
}


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in ("too_few", "too_many")])
def test_each_check_finds_its_fault_and_nothing_else_does(
    find: Callable[..., list[Finding]], folder: Path, check: str
) -> None:
    spoil, fields, words = FAULTS[check]
    assert find(**fields) == []
    spoil(folder)
    found = find(**fields)
    assert kinds(found) == [(check, "0.png" if check == "caption_duplicates" else "4.png")]
    assert words in found[0].message and found[0].advice
    assert found[0].line() == f"{found[0].file}: {found[0].message}; {found[0].advice}"


def test_a_mirrored_picture_is_a_duplicate(find: Callable[..., list[Finding]], folder: Path) -> None:
    _mirrored(folder)
    assert kinds(find()) == [("near_duplicates", "4.png")]


def test_squares_call_small_and_long_by_the_shorter_side(
    find: Callable[..., list[Finding]], folder: Path
) -> None:
    scene(4, (50, 140)).save(folder / "4.png")
    assert find() == []
    assert kinds(find(buckets=False)) == [("too_small", "4.png")]
    _long(folder)
    assert "75% of it" in find(buckets=False)[0].message


def test_a_picture_of_the_same_shapes_in_other_colours_is_another(
    find: Callable[..., list[Finding]], folder: Path
) -> None:
    turned = coloured(scene(2), Colours(1.0, 1.0, 0.4))
    assert (marks(turned) != marks(scene(2))).mean() <= ALIKE_MARKS
    turned.save(folder / "4.png")
    assert find() == []


def test_captions_of_one_prompt_are_not_compared(find: Callable[..., list[Finding]], folder: Path) -> None:
    assert find(captions="prompt") == []
    for path in folder.glob("*.txt"):
        path.write_text("zuv")
    assert find() == []  # all alike: as good as a prompt


@pytest.mark.parametrize("kind", ["subject", "style"])
def test_the_number_of_pictures_by_kind(make_config: Make, folder: Path, kind: str) -> None:
    data = make_config(instance_images=folder, held_out=0).data.model_copy(update={"kind": kind})
    (one, *_) = load_dataset(data).learn
    seen = look(one, False, SIDE)

    def found(count: int, check: str) -> list[Finding]:
        case = Case(data=data, run=None, resolution=SIDE, looks=(seen,) * count)
        return list(CHECKS[check].find(case))

    assert not found(FEW[kind], "too_few") and not found(MANY[kind], "too_many")
    (few,), (many,) = found(FEW[kind] - 1, "too_few"), found(MANY[kind] + 1, "too_many")
    assert f"{FEW[kind] - 1} pictures to learn a {kind} from" in few.message
    assert f"{MANY[kind] + 1} pictures to learn a {kind} from" in many.message


def test_the_number_of_pictures_by_the_length_of_the_run(find: Callable[..., list[Finding]]) -> None:
    assert not find(steps=30) and not find(steps=3000)
    (many,), (few,) = find(steps=29), find(steps=3001)
    assert many.kind == "too_many" and "seen 9.7 times only in 29 steps" in many.message
    assert "raise run.steps to 30" in many.advice
    assert few.kind == "too_few" and "lower run.steps to 3000" in few.advice


def test_held_out_pictures_are_not_learned_from(find: Callable[..., list[Finding]]) -> None:
    (few,) = find(held_out=3)
    assert few.kind == "too_few" and "3 pictures to learn a subject from" in few.message
    assert "hold out fewer" in few.advice


def test_what_cannot_be_read_is_all_that_is_said(find: Callable[..., list[Finding]], folder: Path) -> None:
    (folder / "1.png").write_bytes(b"no picture")
    (folder / "3.png").write_bytes((folder / "4.png").read_bytes()[:200])
    found = find()
    assert kinds(found) == [("unreadable", "1.png"), ("unreadable", "3.png")]
    assert all("remove it or save it again" in one.advice for one in found)


def test_other_mistakes_are_said_too(find: Callable[..., list[Finding]], tmp_path: Path) -> None:
    (table,) = find(captions="table")
    assert table.kind == "unreadable" and "table of captions" in table.message
    (none,) = find(instance_images=tmp_path / "nowhere")
    assert none.kind == "unreadable" and "isn't a folder" in none.message


def test_the_resolution_is_the_configs_or_the_bases(make_config: Make, folder: Path) -> None:
    pocket = make_config(instance_images=folder, base="pocket", held_out=0, steps=100)
    assert examine(pocket.data, pocket.run) == []
    other = make_config(instance_images=folder, held_out=0, steps=100)
    assert {one.kind for one in examine(other.data, other.run)} == {"too_small"}
    assert examine(make_config(instance_images=folder, held_out=0, resolution=64).data) == []


def test_of_many_only_some_are_looked_at_and_all_are_counted(make_config: Make, folder: Path) -> None:
    Image.new("RGB", (96, 96), "gray").save(folder / "1.png")
    Image.new("RGB", (96, 96), "gray").save(folder / "2.png")
    config = make_config(instance_images=folder, held_out=0, steps=1, batch_size=1)
    dataset = load_dataset(config.data)
    whole = examine(config.data, config.run, resolution=SIDE, dataset=dataset)
    some = examine(config.data, config.run, resolution=SIDE, dataset=dataset, at_most=3)
    assert [one.file for one in whole if one.kind == "blank"] == ["1.png", "2.png"]
    assert [one.file for one in some if one.kind == "blank"] == ["2.png"]  # of 0, 2 and 4
    (seen,) = (one for one in some if one.kind == "too_many")
    assert seen in whole and "each of 6 pictures" in seen.message


def test_before_a_run_a_dataset_isnt_read_again_and_is_looked_at_in_part(
    make_config: Make, folder: Path, tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(instance_images=folder, held_out=0, steps=100)
    dataset = load_dataset(config.data)
    said = list(doctor_notes(tiny_base, config))
    assert list(doctor_notes(tiny_base, config, dataset)) == said
    monkeypatch.setattr(trainers.preparing, "LOOKED_AT", 4)
    assert "looked for faults in 4 of 6 pictures" in list(doctor_notes(tiny_base, config, dataset))[-1]


def test_sharpness_by_hand() -> None:
    """One bright pixel of 9: in 3×3 the Laplacian has one value, which has no variance; in 4×4 four."""
    assert sharpness(np.zeros((5, 5))) == 0.0 and sharpness(np.eye(2)) == 0.0
    luma = np.zeros((4, 4))
    luma[1, 1] = 16.0
    # Laplacian of the inner 2×2: −64, 16, 16, 0; mean −8, variance (56² + 24² + 24² + 8²) / 4 = 1088.
    # Variance of the luma: 16²/16 − 1 = 15.
    assert sharpness(luma) == pytest.approx(1088 / 15)


def test_marks_tell_brighter_from_darker() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 255, 5, dtype=np.uint8), (51, 1)))
    found = marks(ramp)
    assert found.shape == (512,) and found[:256].all() and not found[256:].any()
    assert not marks(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).any()


def test_pictures_of_several_batches_a_step_are_counted(find: Callable[..., list[Finding]]) -> None:
    """6 pictures: 20 steps of 1 · 4 show each 13 times; of 1 alone 3.3 times."""
    assert find(steps=20, batch_size=1, accumulate=4) == []
    assert [one.kind for one in find(steps=20, batch_size=1)] == ["too_many"]
    heavy = find(steps=2000, batch_size=1, accumulate=4)
    assert [(one.kind, one.advice) for one in heavy] == [
        ("too_few", "add pictures, or lower run.steps to 1500")
    ]


def test_a_table_that_a_captioner_will_write_is_not_missed(find: Callable[..., list[Finding]]) -> None:
    assert kinds(find(captions="table")) == [("unreadable", "")]
    assert find(captions="table", captioner="org/model", add_trigger=True) == []
