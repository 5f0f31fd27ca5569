"""Auto-captions: by a tiny random BLIP, only where none is, and what is said without a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.errors import ConfigError, PictureError
from trainers.captioning import QUESTION, _caption, load_captioner, write_captions
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.events import TrainEvent

Make = Callable[..., TrainConfig]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "disc", "on", "red", "teal", "gold"]


@pytest.fixture(scope="module")
def captioner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BLIP of a few thousand numbers, saved as one would be published."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("captioner")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), bos_token="[DEC]")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={**small, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "bos_token_id": 5,
                     "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3, "max_position_embeddings": 80},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(3)
    model = BlipForConditionalGeneration(config).eval()
    with torch.no_grad():  # it says words rather than nothing
        model.text_decoder.cls.predictions.bias[:6] = -20.0
    model.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 16, "width": 16})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def run(config: TrainConfig, captioner: Any = None) -> tuple[list[TrainEvent], int]:
    """All events, and what the generator returned."""
    events, steps = [], write_captions(config.data, total=7, captioner=captioner)
    while True:
        try:
            events.append(next(steps))
        except StopIteration as stop:
            return events, stop.value


def test_a_model_captions_what_has_no_caption(
    make_config: Make, pictures: Path, captioner_folder: Path
) -> None:
    (pictures / "01.txt").write_text("zuv by hand")
    (pictures / "02.txt").write_text(" \n")
    config = make_config(captioner=str(captioner_folder), add_trigger=True)
    events, written = run(config)
    assert written == 4 and [event.data["done"] for event in events] == [1, 2, 3, 4]
    assert {(event.kind, event.data["of"], event.total) for event in events} == {("stage", 4, 7)}
    assert (pictures / "01.txt").read_text() == "zuv by hand"
    said = load_captioner(str(captioner_folder))(Image.open(pictures / "00.png").convert("RGB"))
    assert said and set(said.split()) <= set(WORDS)
    captions = [item.caption for item in load_dataset(config.data).learn]
    assert captions[0] == f"zuv, {' '.join(said.split())}" and captions[1] == "zuv by hand"
    assert run(config, captioner=None) == ([], 0)


def test_nothing_missing_loads_no_model(make_config: Make, pictures: Path) -> None:
    for picture in pictures.glob("*.png"):
        picture.with_suffix(".txt").write_text("zuv")
    assert run(make_config(captioner="org/never-there", add_trigger=True)) == ([], 0)


@pytest.mark.parametrize("content", [None, "{}", '{"model_type": "clip"}'])
def test_a_model_that_cannot_be_loaded_is_one_line(
    make_config: Make, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "model"
    folder.mkdir()
    if content:
        (folder / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"captioner .* can't be loaded \(.*by hand") as caught:
        run(make_config(captioner=str(folder), add_trigger=True))
    assert "\n" not in str(caught.value) and not list(pictures.glob("*.txt"))


def test_pickles_are_not_opened(
    make_config: Make, captioner_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(captioner_folder, tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickled" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigError, match="can't be loaded"):
        load_captioner(str(tmp_path / "pickled"))


def test_what_the_model_leaves_unsaid_is_a_warning(make_config: Make, pictures: Path) -> None:
    config = make_config(captioner="x", add_trigger=True)
    events, written = run(config, captioner=lambda picture: " \n" if picture.size[0] else "")
    assert written == 0 and {event.kind for event in events} == {"warning"}
    assert not list(pictures.glob("*.txt"))


def test_captions_go_into_a_jsonl_table(make_config: Make, pictures: Path) -> None:
    (pictures / "metadata.jsonl").write_text('{"file": "01.png", "caption": "zuv by hand"}')
    config = make_config(captions="table", captioner="x", add_trigger=True)
    steps = write_captions(config.data, captioner=lambda picture: "two\nlines")
    next(steps)
    steps.close()  # interrupted after the first
    assert run(config, captioner=lambda picture: "a disc")[1] == 3
    lines = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    assert [(line["file"], line["caption"]) for line in lines] == [
        ("01.png", "zuv by hand"), ("00.png", "two lines"), ("02.png", "a disc"),
        ("03.png", "a disc"), ("04.png", "a disc"),
    ]  # fmt: skip
    assert load_dataset(config.data).learn[0].caption == "zuv, two lines"


def test_captions_do_not_go_into_a_csv_table(make_config: Make, pictures: Path) -> None:
    (pictures / "metadata.csv").write_text("file,caption\n01.png,zuv\n")
    with pytest.raises(PictureError, match=r"no line for '00\.png'.*\.jsonl"):
        run(make_config(captions="table", captioner="x", add_trigger=True), captioner=lambda picture: "a")


def test_models_that_chat_are_asked_and_only_their_answer_is_taken() -> None:
    """A stand-in for a processor with a chat template, such as LLaVA's or Qwen-VL's."""
    asked: list[Any] = []

    class Inputs(dict[str, torch.Tensor]):
        def to(self, device: Any) -> Inputs:
            return self

    class Processor:
        chat_template = "{{ messages }}"

        def apply_chat_template(self, messages: Any, **options: Any) -> Inputs:
            asked.append((messages, options))
            return Inputs(input_ids=torch.tensor([[1, 2, 3]]))

        def batch_decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> list[str]:
            return [" ".join(str(token) for token in row.tolist()) for row in tokens]

    class Model:
        device = "cpu"

        def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
            assert options["do_sample"] is False
            return torch.cat([input_ids, torch.tensor([[8, 9]])], dim=1)

    picture = Image.new("RGB", (4, 4))
    assert _caption(Processor(), Model(), picture) == "8 9"
    ((messages, options),) = asked
    assert messages[0]["content"][0]["image"] is picture and messages[0]["content"][1]["text"] == QUESTION
    assert options["add_generation_prompt"] and options["return_dict"]
