"""Captions written by a model that looks at the pictures: an image-to-text model of transformers, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.bases.named import model_folder
from pipelines.errors import ConfigError, PictureError
from pipelines.exhausted import device_lost, out_of_memory
from pipelines.files import write_atomic
from trainers.config import DataConfig
from trainers.events import TrainEvent
from trainers.folders import find_folders
from trainers.images import read_picture
from trainers.tables import TABLE_NAMES, one_line, read_table

QUESTION = "Describe this picture in one short sentence."
"""What models that chat are asked; the others say what they see unasked."""
MAX_TOKENS = 60

Captioner = Callable[[Image.Image], str]


def write_captions(
    data: DataConfig, device: str | None = None, total: int = 0, captioner: Captioner | None = None
) -> Generator[TrainEvent, None, int]:
    """Caption every picture that has no caption, yielding an event for each; return how many were written.

    Captions go into .txt files, and with `data.captions = "table"` into the table, which must be .jsonl. What
    is written already stays as it is, so an interrupted call goes on where it stopped. Where nothing is
    missing no model is loaded. device: None for the CPU. total: steps of the run. captioner: None loads
    `data.captioner`.

    Raises: ConfigError where the model can't be loaded; PictureError for a picture or table that can't be
    used. Both come before the first event.
    """
    pictures = [path for folder in find_folders(data) for path in folder.pictures]
    write, missing = _writer(data, pictures)
    if not missing:
        return 0
    say = captioner or load_captioner(data.captioner, device)
    written = 0
    for done, path in enumerate(missing, start=1):
        caption = one_line(say(read_picture(path, data.background).image))
        if caption:
            write(path, caption)
            written += 1
        yield TrainEvent(
            kind="stage" if caption else "warning",
            total=total,
            message=f"captions {done}/{len(missing)}: {path.name}: {caption or 'the captioner said nothing'}",
            data={"stage": "captions", "done": done, "of": len(missing)} if caption else {},
        )
    return written


def _writer(data: DataConfig, pictures: list[Path]) -> tuple[Callable[[Path, str], None], list[Path]]:
    """How a caption is written, and for which pictures there is none."""
    if data.captions != "table":
        return _write_sidecar, [path for path in pictures if not _has_words(path.with_suffix(".txt"))]
    named = data.captions_file
    there = [name for name in ((named,) if named else TABLE_NAMES) if (data.instance_images / name).is_file()]
    table = data.instance_images / (there[0] if there else named or TABLE_NAMES[0])
    rows = read_table(table, pictures)[0] if there else {}
    missing = [path for path in pictures if path not in rows]
    if missing and table.suffix.lower() != ".jsonl":
        raise PictureError(
            f"table {table.name!r} has no line for {missing[0].name!r}, and captions are added to .jsonl "
            "tables only; add its line, or save the table as .jsonl"
        )

    def add(path: Path, caption: str) -> None:
        before = table.read_bytes().rstrip(b"\n") + b"\n" if table.is_file() else b""
        name = path.relative_to(data.instance_images).as_posix()
        line = json.dumps({"file": name, "caption": caption}, ensure_ascii=False)
        write_atomic(table, [before.lstrip(b"\n"), line.encode() + b"\n"])

    return add, missing


def _write_sidecar(path: Path, caption: str) -> None:
    write_atomic(path.with_suffix(".txt"), [caption.encode() + b"\n"])


def _has_words(path: Path) -> bool:
    return path.is_file() and bool(path.read_bytes().strip(b"\xef\xbb\xbf \t\r\n"))


def load_captioner(name: str, device: str | None = None) -> Captioner:
    """Load an image-to-text model of transformers; only safetensors, and none of the model's own code.

    name: a folder, or a hub id, which is fetched where it isn't there. device: None for the CPU.

    Raises: ConfigError where it isn't there, can't be fetched, or isn't such a model.
    """
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder = model_folder(name, "captioner")
        options = {"trust_remote_code": False, "local_files_only": True}
        processor = AutoProcessor.from_pretrained(folder, **options)
        model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, **options)
        model = model.eval().to(device or "cpu")
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, ImportError and others.
        if out_of_memory(error) or device_lost(error):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ConfigError(
            f"captioner {name!r} can't be loaded ({(reason or type(error).__name__)[:200]}); give a folder "
            "that holds an image-to-text model, go online, or write the captions by hand as .txt files"
        ) from None
    return lambda picture: _caption(processor, model, picture)


def _caption(processor: Any, model: Any, picture: Image.Image) -> str:
    """Say what is in a picture, without chance."""
    import torch

    told = 0
    if getattr(processor, "chat_template", None):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        told = inputs["input_ids"].shape[1]
    else:
        inputs = processor(images=picture, return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(
            **inputs.to(model.device), max_new_tokens=MAX_TOKENS, do_sample=False, num_beams=1
        )
    return str(processor.batch_decode(tokens[:, told:], skip_special_tokens=True)[0])
