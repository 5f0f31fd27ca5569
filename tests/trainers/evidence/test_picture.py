"""Everything of a record as one picture, whatever of it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from trainers.evidence.picture import WIDTH, evidence_picture
from trainers.evidence.picture_charts import charts, ticks
from trainers.evidence.record import (
    Anatomy,
    Block,
    Choice,
    Finding,
    Loss,
    Measured,
    Memorisation,
    Pair,
    Record,
    Seen,
)
from trainers.evidence.sheet import BAD, CHOSEN, GOOD, SERIES, Sheet, fitted, spelled, width_of, wrapped

RED, BLUE = (250, 10, 240), (10, 240, 250)


def painted(folder: Path, name: str, colour: tuple[int, int, int]) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 24), colour).save(path)
    return name


def count(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    """How many pixels have exactly this colour."""
    return {value: number for number, value in picture.getcolors(1 << 24) or ()}.get(colour, 0)


def measured(step: int) -> Measured:
    return Measured(step=step, losses={"teaching": Loss(mean=0.2 - step / 1e4), "class": Loss(mean=0.3)})


def whole(folder: Path) -> Record:
    ours = painted(folder, "evidence/drawn-00.png", RED)
    painted(folder, "evidence/one.png", BLUE)
    block = Block(name="mid_block", modules=4, norm=1.0, relative=0.1, share=0.7, rank=2.0)
    text = Block(name="text_encoder", modules=4, norm=0.4, share=0.3)
    previews = {step: painted(folder, f"previews/step-{step}.png", RED) for step in (0, 50, 100)}
    return Record(
        run={"name": "a thing", "kind": "subject", "trigger": "zib", "pictures": 1, "steps": 100},
        measured=tuple(measured(step) for step in (0, 50, 100)),
        previews=tuple(Seen(step=step, files=(file,), prompts=("zib",)) for step, file in previews.items()),
        curve=tuple((step, 0.3, 1.0, 1e-4) for step in range(1, 101)),
        drawn=Seen(step=50, files=(ours,), prompts=("zib",), image_similarity=0.8),
        base=Seen(step=0, files=(ours,), image_similarity=0.4),
        memorisation=Memorisation(
            thresholds={"structure": 0.8},
            calibrated="",
            pairs=(Pair(picture=ours, nearest="one.png", structure=0.9),),
        ),
        anatomy=Anatomy(
            blocks=(block, text), norm=1.0, text_share=0.3, rank=16, rank_95=2, rank_99=4, error_99=0.1
        ),
        choice=Choice(step=50, last=100, rule="mirrored", reason="Because."),
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record, Image.Image]:
    """A folder, its record, and the picture of it. Don't write there."""
    folder = tmp_path_factory.mktemp("run")
    record = whole(folder)
    return folder, record, evidence_picture(folder, record)


def test_every_part_is_drawn(drawn: tuple[Path, Record, Image.Image]) -> None:
    picture = drawn[2]
    assert picture.width == WIDTH
    assert count(picture, CHOSEN) > 1000  # the sentence, the marks of the charts, the frame
    assert count(picture, BLUE) > 5000  # the learned picture of the pair
    assert count(picture, RED) > 6 * count(picture, BLUE)  # three previews, two drawn, one of the pair
    assert count(picture, SERIES[1]) > 1000  # the text encoder's bar
    assert count(picture, GOOD) > 100


@pytest.mark.parametrize(
    "part", ["measured", "previews", "curve", "drawn", "base", "memorisation", "anatomy", "choice", "run"]
)
def test_any_part_may_be_missing(drawn: tuple[Path, Record, Image.Image], part: str) -> None:
    folder, record, full = drawn
    empty = Record().model_dump()[part]
    without = Record.model_validate(record.model_dump() | {part: empty})
    assert evidence_picture(folder, without).tobytes() != full.tobytes()


def test_nothing_known_and_pictures_gone(tmp_path: Path, drawn: tuple[Path, Record, Image.Image]) -> None:
    assert evidence_picture(tmp_path, Record()).width == WIDTH
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "drawn-00.png").write_bytes(b"no picture")
    assert evidence_picture(tmp_path, drawn[1]).height < drawn[2].height


def test_no_picture_from_elsewhere_is_shown(tmp_path: Path) -> None:
    painted(tmp_path, "secret.png", BLUE)
    (tmp_path / "run").mkdir()
    drawn = Seen(step=0, files=("../secret.png", str(tmp_path / "secret.png")))
    assert count(evidence_picture(tmp_path / "run", Record(drawn=drawn)), BLUE) == 0


def test_the_verdict_is_in_its_colours(tmp_path: Path) -> None:
    record = Record(measured=(measured(0),))
    assert count(evidence_picture(tmp_path, record), BAD) == 0
    found = Finding(rule="memorised", title="Copies", words="It copies.", advice="Stop.")
    bad = evidence_picture(tmp_path, record.model_copy(update={"verdict": (found,)}))
    assert count(bad, BAD) > 200
    assert count(bad, GOOD) == 0


def test_losses_are_shown_against_the_base() -> None:
    record = Record(measured=(measured(0), measured(50)), curve=((1, 0.5, 1.0, 1e-4),))
    (chart,) = charts(record)  # one step of a curve is no curve
    points = {line.label: dict(line.points) for line in chart.lines}
    assert points == {"learned from": {0: 0, 50: pytest.approx(-0.025)}, "the base's own": {0: 0, 50: 0}}


def test_many_steps_keep_the_chosen_one(tmp_path: Path) -> None:
    files = {step: painted(tmp_path, f"p{step}.png", RED) for step in range(30)}
    files[17] = painted(tmp_path, "p17.png", BLUE)
    previews = tuple(Seen(step=step, files=(file,)) for step, file in files.items())
    choice = Choice(step=17, last=29, rule="held_out", reason="")
    assert count(evidence_picture(tmp_path, Record(previews=previews, choice=choice)), BLUE) > 1000


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-0.31, 0.07), (0.2, 0.2), (0.0, 0.0), (1e-5, 3e-5), (-3, 900)]
)
def test_ticks_are_few_and_hold_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9


def test_text_is_spelled_in_the_letters_there_are_and_kept_in_its_box() -> None:
    assert spelled("crème – 3×4 “ok” 你\n x") == "creme - 3x4 “ok” ? x"
    lines = wrapped("word " * 40 + "x" * 300, 15, 200, most=3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(width_of(line, 15) <= 201 for line in lines)
    sheet = Sheet(100)
    sheet.write("a " * 200, most=4)
    assert sheet.done().size == (100, sheet.y)


def test_pictures_fill_their_squares_whole(tmp_path: Path) -> None:
    Image.new("RGB", (24, 12), RED).save(tmp_path / "a.png")
    for side in (96, 100, 10):
        found = fitted(tmp_path / "a.png", side)
        assert found is not None
        assert (found.size, count(found, RED)) == ((side, side), side * side // 2)
    assert fitted(tmp_path / "none.png", 100) is None
    assert fitted(None, 100) is None
