"""What is drawn at a run's end, and what is said of the pictures."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.base import Base
from pipelines.mixer import Mixer
from tests.tiny import assert_unchanged, random_adapter, weights_of
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.evidence.drawn import TAUGHT, References, draw_and_judge, judge_preview
from trainers.evidence.judges import Judges

Make = Callable[..., TrainConfig]


class Colours:
    """A judge of three numbers: the mean colour; prompts are by whether they say “zuv”, “disc”, or else."""

    name = "colours"

    def __init__(self) -> None:
        self.read: list[str] = []

    def image_embeddings(self, images: Sequence[Image.Image], batch: int = 64) -> torch.Tensor:
        means = [np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0) + 1 for image in images]
        found = torch.tensor(np.stack(means), dtype=torch.float32)
        return found / found.norm(dim=1, keepdim=True)

    def text_embeddings(self, prompts: Sequence[str], batch: int = 64) -> torch.Tensor:
        self.read += prompts
        rows = [
            [1.0, 0, 0] if "zuv" in one else [0, 1.0, 0] if "disc" in one else [0, 0, 1.0] for one in prompts
        ]
        return torch.tensor(rows)


def draw(
    base: Base, config: TrainConfig, folder: Path, judges: Judges | None = None, strength: float = 1.0
) -> Any:
    with Mixer(base) as mixer:
        mixer.add(TAUGHT, random_adapter(base, strength=strength))
        references = References.of(load_dataset(config.data))
        colours = Colours()
        found = draw_and_judge(base, mixer, config, references, folder, 7, judges or Judges(colours, colours))
        assert mixer.weights == {TAUGHT: (1.0, 1.0)}
        return found


@pytest.mark.parametrize("family", ["tiny_base", "tiny_sd2", "tiny_sdxl"])
def test_every_family_is_drawn_and_left_as_it_was(
    family: str, request: pytest.FixtureRequest, make_config: Make, tmp_path: Path
) -> None:
    base: Base = request.getfixturevalue(family)
    before, chance = (
        weights_of(base),
        (torch.get_rng_state(), random.getstate(), str(np.random.get_state())),
    )
    found = draw(base, make_config(samples=2), tmp_path / "out")
    assert_unchanged(base, before)
    assert torch.equal(chance[0], torch.get_rng_state()) and chance[1] == random.getstate()
    assert chance[2] == str(np.random.get_state())
    seen = found.seen
    assert seen.step == 7 and found.base.step == 0 and seen.seeds == found.base.seeds
    assert seen.prompts[0] == seen.prompts[1] == "a zuv disc" and found.base.prompts[0] == "a disc"
    assert len(seen.files) == 6 and len(set(seen.seeds)) == 6
    assert all((tmp_path / "out" / file).is_file() for file in (*seen.files, *found.base.files))
    for value in (seen.image_similarity, seen.structure_similarity, seen.prompt_similarity, seen.diversity):
        assert value is not None and -1 <= value <= 2
    assert seen.drift is not None and seen.drift > 0 and found.base.drift is None
    assert found.memorisation is not None and found.memorisation.flagged == 0


def test_an_adapter_of_nothing_drifts_nowhere_and_draws_as_the_base(
    tiny_base: Base, make_config: Make, tmp_path: Path
) -> None:
    config = make_config(evidence_prompts=("a disc",), samples=2)  # no trigger: the same words on both sides
    found = draw(tiny_base, config, tmp_path, strength=0)
    assert found.seen.drift == pytest.approx(0, abs=1e-5)
    assert found.seen.prompts == found.base.prompts == ("a disc", "a disc")
    for one, other in zip(found.seen.files, found.base.files, strict=True):
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()
    assert (found.seen.image_similarity, found.seen.diversity) == (
        found.base.image_similarity, found.base.diversity,
    )  # fmt: skip


def test_without_a_judge_pictures_are_drawn_and_held_against_the_learned_ones(
    tiny_base: Base, make_config: Make, tmp_path: Path
) -> None:
    found = draw(tiny_base, make_config(evidence_prompts=("zuv",), samples=1), tmp_path, Judges())
    assert found.seen.image_similarity is found.seen.drift is found.seen.diversity is None
    assert len(found.memorisation.pairs) == 1 and found.memorisation.pairs[0].similarity is None


def test_likeness_is_measured_with_held_out_pictures_where_there_are_any(make_config: Make) -> None:
    judge, some, none = Colours(), make_config(held_out=2), make_config(held_out=0)
    known, alone = References.of(load_dataset(some.data)), References.of(load_dataset(none.data), most=3)
    assert len(known.taught) == 3 and len(known.compared(judge)) == 2
    assert len(alone.taught) == 5 and len(alone.compared(judge)) == 3
    assert alone.names[0] == "00.png"


def test_a_preview_is_judged_by_its_own_prompts(make_config: Make, tmp_path: Path) -> None:
    config = make_config(held_out=0)
    known, judge = References.of(load_dataset(config.data)), Colours()
    files = [tmp_path / "red.png", tmp_path / "green.png", tmp_path / "blue.png"]
    for file in files:
        Image.new("RGB", (16, 16), file.stem).save(file)
    prompts = ["a zuv disc", "a zuv disc", "a dog"]
    seen = judge_preview(files, prompts, Judges(judge), known, config.data)
    own = judge.image_embeddings([Image.open(file) for file in files])
    by_hand = (own[:2] @ known.compared(judge).T).mean()
    assert seen.image_similarity == pytest.approx(float(by_hand), abs=1e-4)
    assert seen.diversity == pytest.approx(1 - float(own[0] @ own[1]), abs=1e-4)
    assert judge.read == ["a disc", "a disc", "a dog"] and seen.prompts == tuple(prompts)
    assert seen.prompt_similarity == pytest.approx(float(own[0, 1] + own[1, 1] + own[2, 2]) / 3, abs=1e-4)
    assert seen.structure_similarity is seen.drift is None


def test_a_learned_picture_among_drawn_ones_is_flagged(
    pocket: Base, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real pictures by an adapter of the examples, and one of them swapped for what it has learned."""
    import trainers.evidence.drawn as drawing
    from pipelines.base import ASSETS
    from pipelines.formats import read_adapter

    shutil.copytree(
        ASSETS / "examples" / "mascot", tmp_path / "zib", ignore=shutil.ignore_patterns("held_out")
    )
    config = make_config(
        base="pocket", instance_images=tmp_path / "zib", trigger="zib", held_out=0, samples=1,
        instance_prompt="a photo of a zib creature", class_prompt="a photo of a creature",
    )  # fmt: skip
    known = References.of(load_dataset(config.data))
    truly = drawing._draw
    swapped: list[int] = []

    def plant(*given: Any) -> list[Image.Image]:
        found = truly(*given)
        if swapped:  # the second call draws with the adapter
            found[1] = known.taught[3].resize((64, 64)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        swapped.append(1)
        return found

    monkeypatch.setattr(drawing, "_draw", plant)
    monkeypatch.setattr(drawing, "STEPS", 4)
    with Mixer(pocket) as mixer:
        mixer.add(TAUGHT, read_adapter(ASSETS / "examples" / "adapters" / "mascot.safetensors"))
        found = draw_and_judge(pocket, mixer, config, known, tmp_path / "out", 1, Judges())
    assert found.memorisation is not None
    first, *others = found.memorisation.pairs
    assert (first.picture, first.nearest, first.flagged) == ("evidence/drawn-01.png", "04.png", True)
    assert len(others) == 2 and not any(pair.flagged for pair in others)
