"""Copies are found however they were changed a little; pictures of the same subject aren't taken for them."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from pipelines.base import ASSETS
from trainers.evidence.memorisation import BOUNDS, REPEATED, calibrate, memorisation
from trainers.evidence.references import References
from trainers.evidence.similarity import Judge
from trainers.evidence.structure import SIDE, nearness, structural_similarity

Change = Callable[[Image.Image], Image.Image]


def read(folder: str) -> tuple[Image.Image, ...]:
    files = sorted((ASSETS / "examples" / folder).glob("*.png"))
    return tuple(Image.open(file).convert("RGB") for file in files)


def references(folder: str, count: int | None = None, held_out: bool = False) -> References:
    taught = read(folder)[:count]
    others = read(f"{folder}/held_out") if held_out else ()
    return References(tuple(f"{index:02d}.png" for index in range(len(taught))), taught, others)


def jpeg(image: Image.Image) -> Image.Image:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=40)
    return Image.open(encoded).convert("RGB")


def cut(share: float, x: float, y: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        side = image.width * share
        left, top = (image.width - side) * x, (image.height - side) * y
        return image.resize((64, 64), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))

    return change


CHANGES: dict[str, Change] = {
    "itself": lambda image: image,
    "jpeg": jpeg,
    "mirrored": ImageOps.mirror,
    "small": lambda image: image.resize((40, 40)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "cut": cut(0.9, 0.5, 0.5),
    "cut at a corner": cut(0.83, 0.0, 1.0),
    "cut and mirrored": lambda image: ImageOps.mirror(cut(0.87, 0.3, 0.6)(image)),
}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.mark.parametrize("folder", ["mascot", "teapot", "pixel-art"])
def test_planted_copies_are_found(folder: str, judge: Judge) -> None:
    known = references(folder)
    planted = [change(known.taught[index % 5]) for index, change in enumerate(CHANGES.values())]
    found = memorisation(planted, list(CHANGES), known, judge)
    assert found is not None
    nearest = {pair.picture: pair for pair in found.pairs}
    assert [name for name, pair in nearest.items() if not pair.flagged] == []
    for index, name in enumerate(CHANGES):
        assert nearest[name].nearest == known.names[index % 5], name
    assert found.flagged == len(CHANGES)
    assert nearest["itself"].structure == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("folder", ["mascot", "teapot"])
@pytest.mark.parametrize("judged", [True, False])
def test_other_pictures_of_the_subject_are_no_copies(folder: str, judged: bool, judge: Judge) -> None:
    unseen = read(f"{folder}/held_out")
    names = [f"{index}" for index in range(len(unseen))]
    found = memorisation(unseen, names, references(folder), judge if judged else None)
    assert found is not None and found.flagged == 0
    assert ("similarity" in found.thresholds) == judged
    assert all((pair.similarity is not None) == judged for pair in found.pairs)
    assert [pair.structure for pair in found.pairs] == sorted(
        (p.structure for p in found.pairs), reverse=True
    )


def test_the_bound_follows_from_ordinary_pairs() -> None:
    alone, held = calibrate(references("teapot")), calibrate(references("teapot", held_out=True))
    assert held.usual > alone.usual and "5 held-out" in held.words
    assert held.structure == pytest.approx(held.usual + 0.3 * (1 - held.usual))
    assert alone.structure == BOUNDS["structure"][0]


def test_one_picture_and_the_same_picture_twice_have_fixed_bounds() -> None:
    one = calibrate(references("mascot", count=1))
    assert one.structure == BOUNDS["structure"][0] and "one picture" in one.words
    picture = read("mascot")[0]
    twice = calibrate(References(("a", "b"), (picture, jpeg(picture))))
    assert twice.structure == BOUNDS["structure"][0] and "all but the same" in twice.words


def test_three_pictures_are_enough_to_find_a_copy() -> None:
    known = references("mascot", count=3)
    drawn = [jpeg(known.taught[2]), *read("mascot/held_out")]
    found = memorisation(drawn, [str(index) for index in range(len(drawn))], known, None)
    assert found is not None and [pair.picture for pair in found.pairs if pair.flagged] == ["0"]


def test_pictures_that_are_all_alike_are_said_to_be() -> None:
    noise = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))
    frames = (255 * (0.9 * picture.repeat_interleave(1, 0) + 0.1 * noise)).byte().numpy()
    large = [Image.fromarray(frame).resize((64, 64), box=(0, 0, 16, 16)) for frame in frames]
    bounds = calibrate(References(("a", "b", "c"), tuple(large)))
    assert "so alike" in bounds.words and bounds.structure >= BOUNDS["structure"][1]


def test_nothing_to_compare_with_says_nothing() -> None:
    assert memorisation([], [], references("mascot"), None) is None
    assert memorisation(read("mascot"), ["a"] * 5, References((), ()), None) is None


def test_a_copy_is_found_among_very_many_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.evidence.memorisation.NEAREST", 8)
    monkeypatch.setattr("trainers.evidence.memorisation.LEARNED", 4)
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (40, 6, 6, 3), generator=generator).byte().numpy()
    taught = tuple(Image.fromarray(one).resize((48, 48), Image.Resampling.BICUBIC) for one in colours)
    known = References(tuple(str(index) for index in range(len(taught))), taught)
    found = memorisation([ImageOps.mirror(taught[37]), jpeg(taught[3])], ["a", "b"], known, None)
    assert found is not None and {(pair.nearest, pair.flagged) for pair in found.pairs} == {
        ("37", True), ("3", True),
    }  # fmt: skip


def test_structure_is_that_of_the_source_on_equal_means() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, SIDE, SIDE, generator=generator)
    assert float(structural_similarity(picture, picture)) == pytest.approx(1)
    assert float(structural_similarity(picture, 1 - picture)) < 0
    flat = torch.full((1, 3, SIDE, SIDE), 0.5)
    assert float(structural_similarity(flat, flat + 0.1)) == pytest.approx(1 - 3 * 0.1, abs=1e-4)
    assert float(structural_similarity(flat, flat - 0.4)) == 0


def test_a_wide_picture_is_compared_by_its_middle() -> None:
    square = read("mascot")[1]
    wide = Image.new("RGB", (square.width * 2, square.height), "red")
    wide.paste(square, (square.width // 2, 0))
    assert float(nearness([square], [wide])) > 0.95


def test_what_several_seeds_draw_is_a_copy_sooner() -> None:
    """Two thirds a learned picture, one another's: nearer than usual, not near enough alone."""
    known = references("mascot", count=2)
    first, unlike, like = (Image.blend(known.taught[0], picture, 0.35) for picture in read("mascot")[2:5])
    other = read("mascot/held_out")[0]

    def flagged(*drawn: Image.Image) -> list[bool]:
        found = memorisation(drawn, [str(index) for index in range(len(drawn))], known, None)
        assert found is not None
        by_name = {pair.picture: pair for pair in found.pairs}
        near = [by_name[str(index)].structure for index in range(len(drawn) - 1)]
        assert all(REPEATED["learned"] < one < BOUNDS["structure"][0] for one in near), near
        return [by_name[str(index)].flagged for index in range(len(drawn))]

    assert flagged(first, unlike, other) == [False, False, False]
    assert flagged(first, like, other) == [True, True, False]
    assert "another seed" in calibrate(known).words
