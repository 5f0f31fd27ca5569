"""Every way to train, through the loop, on the embedded base: it learns, is kept, comes back and goes out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.adapter import Adapter
from pipelines.base import ASSETS, Base
from pipelines.errors import AdapterError
from pipelines.export import export_adapter
from pipelines.formats import read_adapter
from pipelines.formats.table import FORMATS
from pipelines.formats.writing import unholdable
from pipelines.generate import GenerationConfig, generate
from pipelines.methods import TUNED_AS, TUNINGS
from pipelines.mixer import Mixer
from pipelines.tools import as_lora
from tests.tiny import assert_unchanged, weights_of
from trainers.config import TrainConfig, preset_config
from trainers.loop import train

MASCOT = ASSETS / "examples" / "mascot"
PROMPT = GenerationConfig(prompt="a zib creature", width=32, height=32, num_inference_steps=2, seed=3)
STEPS, RANK = 8, 4


@dataclass(frozen=True, eq=False)
class Ground:
    """What all methods share: the base as it was, its picture, two pictures to learn, one held out."""

    base: Base
    weights: dict[str, torch.Tensor]
    picture: Image.Image
    pictures: Path
    folder: Path

    def config(self, method: str) -> TrainConfig:
        """A short training at a quarter of the base's area."""
        uses = TUNINGS[method].uses
        size = {"rank": RANK, "alpha": float(RANK)}
        return preset_config(
            "sketch", "subject", method=method, **{key: size[key] for key in size if key in uses},
            instance_images=self.pictures, held_out=1, resolution=32, trigger="zib", prior_weight=0.0,
            instance_prompt="a photo of a zib creature", output=self.folder / method, steps=STEPS,
            cache=self.folder / "cache", batch_size=2, checkpoint_every=STEPS, evaluate_every=STEPS,
            preview_every=0, threads=1, device="cpu", schedule="constant", warmup_steps=0,
            measured_on=("held_out",), samples=0, report=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def ground(_loaded_pocket: Base, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Made once: nothing of it may change."""
    folder = tmp_path_factory.mktemp("methods")
    pictures = folder / "pictures"
    pictures.mkdir()
    for name in ("01", "02", "05"):
        for ending in ("png", "txt"):
            shutil.copy(MASCOT / f"{name}.{ending}", pictures)
    return Ground(_loaded_pocket, weights_of(_loaded_pocket), draw(_loaded_pocket), pictures, folder)


def draw(base: Base) -> Image.Image:
    return generate(base, PROMPT)[0].image


def goes_out(adapter: Adapter, file: Path, base: Base) -> str:
    """Write an adapter in kohya's form, as LoRA where it isn't one, or where it can't be, in Pigment's."""
    if unholdable(adapter, FORMATS["kohya"]) is None:
        return export_adapter(adapter, file).format
    try:
        plain, report = as_lora(adapter, RANK, base, allow_left_out=True)
        assert report.error < 1
        return export_adapter(plain, file).format
    except AdapterError:
        form = "embedding" if unholdable(adapter, FORMATS["embedding"]) is None else "pigment"
        return export_adapter(adapter, file, form).format


@pytest.mark.parametrize("method", TUNINGS)
def test_it_learns_is_kept_and_changes_pictures(
    ground: Ground, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("trainers.loop.load_base", lambda *_, **__: ground.base)
    config, losses, done = ground.config(method), [], {}
    for event in train(config):
        if event.kind == "held_out":
            losses.append(event.data["loss"])
        if event.kind == "done":
            done = event.data
    assert_unchanged(ground.base, ground.weights)
    assert len(losses) == 2 and losses[1] < losses[0]

    adapter = read_adapter(config.run.output / done["adapter"])
    assert adapter.triggers == ("zib",) and adapter.sha256 == done["sha256"]
    assert set(adapter.methods) <= {TUNED_AS[method].id} and bool(adapter.tokens) == TUNINGS[method].tokens
    goes_out(adapter, tmp_path / "zib.safetensors", ground.base)
    with Mixer(ground.base) as mixer:
        mixer.add("zib", adapter)
        mixer.set({"zib": 1.0})
        assert draw(ground.base).tobytes() != ground.picture.tobytes()
        mixer.set({"zib": 0.0})
        assert draw(ground.base).tobytes() == ground.picture.tobytes()
    assert_unchanged(ground.base, ground.weights)
