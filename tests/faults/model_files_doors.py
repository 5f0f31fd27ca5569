"""The doors by which files of models and adapters come in: readers, the library, bases, and commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.model_files_seeds import tiny_base

Door = Callable[[bytes, str, Path], object]
"""Hands a file in: its bytes, the ending of its name, and a folder to write in."""


def file_of(raw: bytes, ending: str, place: Path) -> Path:
    path = place / f"harmless{ending}"
    path.write_bytes(raw)
    return path


def adapter_doors() -> dict[str, Door]:
    from pipelines.formats import edit_metadata, inspect_adapter, read_adapter, read_part
    from pipelines.index import index_folder
    from pipelines.recipe import read_recipe

    def folder_of_peft(raw: bytes, ending: str, place: Path) -> None:
        (place / "unet").mkdir()
        (place / "unet" / f"adapter_model{ending or '.bin'}").write_bytes(raw)
        (place / "unet" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
        read_adapter(place)

    def indexed(raw: bytes, ending: str, place: Path) -> None:
        file_of(raw, ending, place)
        file_of(raw, ".safetensors", place)
        index_folder(place, None, lambda done, total: None)

    return {
        "read as an adapter": lambda raw, ending, place: read_adapter(file_of(raw, ending, place)),
        "inspected": lambda raw, ending, place: inspect_adapter(file_of(raw, ending, place)),
        "read in part": lambda raw, ending, place: read_part(file_of(raw, ending, place), tiny_base()),
        "as PEFT's folder": folder_of_peft,
        "in a folder that is indexed": indexed,
        "its metadata edited": lambda raw, ending, place: edit_metadata(
            file_of(raw, ending, place), {"author": "x"}
        ),
        "as a recipe": lambda raw, ending, place: read_recipe(file_of(raw, ending, place)),
    }


def library_doors() -> dict[str, Door]:
    from studio.importing import take, take_folder
    from studio.library import Library
    from studio.workspace import Workspace

    def library(place: Path) -> Library:
        return Library(Workspace.open(place / "workspace", own=False))

    def refused(taken: Any) -> None:
        for name, reason in taken.refused:
            if "\n" in reason:
                raise AssertionError(f"{name}: {reason!r}")
        if taken.entries:
            raise AssertionError("it was taken")

    def zipped(raw: bytes, ending: str, place: Path) -> None:
        with zipfile.ZipFile(place / "x.zip", "w") as archive:
            for name in (f"a{ending}", "b.safetensors", "c/adapter_model.safetensors", "d/adapter_model.bin"):
                archive.writestr(name, raw)
            for name in ("c/adapter_config.json", "d/adapter_config.json"):
                archive.writestr(name, '{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
        refused(take(library(place), [(place / "x.zip", "x.zip")]))

    def in_peft(raw: bytes, ending: str, place: Path) -> None:
        (place / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
        (place / "adapter_model.bin").write_bytes(raw)
        take_folder(library(place), place)

    def beside(raw: bytes, ending: str, place: Path) -> None:
        """As the sidecar and the picture of a sound adapter, which is taken without them."""
        from pipelines.formats import write_adapter
        from tests.tiny import random_adapter

        write_adapter(random_adapter(tiny_base()), place / "x.safetensors")
        for name in ("x.json", "x.png"):
            (place / name).write_bytes(raw)
        names = ("x.safetensors", "x.json", "x.png")
        take(library(place), [(place / name, name) for name in names])

    return {
        "dropped into the library": lambda raw, ending, place: refused(
            take(library(place), [(file_of(raw, ending, place), f"x{ending}")])
        ),
        "added to the library": lambda raw, ending, place: library(place).add(file_of(raw, ending, place)),
        "in a dropped zip": zipped,
        "as PEFT's folder into the library": in_peft,
        "beside an adapter": beside,
    }


@cache
def base_folder() -> Path:
    """The random base in diffusers' layout, once in this process."""
    import tempfile

    from tests.tiny import save_tiny_pipeline

    kept = tempfile.TemporaryDirectory(prefix="pigment-pickles-")
    _KEPT.append(kept)
    return save_tiny_pipeline(Path(kept.name) / "base")


_KEPT: list[Any] = []


def base_doors() -> dict[str, Door]:
    from pipelines.base import load_base
    from pipelines.bases.source import open_source

    def folder(name: str) -> Door:
        """A base's folder whose UNet is a payload of that name."""

        def door(raw: bytes, ending: str, place: Path) -> None:
            base = shutil.copytree(base_folder(), place / "base")
            for file in (base / "unet").glob("*.safetensors"):
                file.unlink()
            (base / "unet" / name).write_bytes(raw)
            load_base(base, device="cpu")

        return door

    def sharded(raw: bytes, ending: str, place: Path) -> None:
        base = shutil.copytree(base_folder(), place / "base")
        name_in_index(base / "unet", "diffusion_pytorch_model", f"evil{ending or '.bin'}", raw)
        load_base(base, device="cpu")

    def everywhere(raw: bytes, ending: str, place: Path) -> None:
        """Beside every sound file of a base that loads."""
        base = shutil.copytree(base_folder(), place / "base")
        for part in [one for one in base.iterdir() if one.is_dir()]:
            for name in (
                "diffusion_pytorch_model.bin",
                "pytorch_model.bin",
                "training_args.bin",
                f"x{ending}",
            ):
                if name != "x.safetensors":
                    (part / name).write_bytes(raw)
        load_base(base, device="cpu")

    return {
        "as a base": lambda raw, ending, place: open_source(file_of(raw, ending, place)),
        "as a base that is loaded": lambda raw, ending, place: load_base(
            file_of(raw, ending, place), device="cpu"
        ),
        "as a VAE": lambda raw, ending, place: load_base(
            base_folder(), device="cpu", vae=file_of(raw, ending, place)
        ),
        "as a base's UNet, .bin": folder("diffusion_pytorch_model.bin"),
        "as a base's UNet, .safetensors": folder("diffusion_pytorch_model.safetensors"),
        "as a shard of a base": sharded,
        "beside a base's files": everywhere,
    }


def name_in_index(folder: Path, stem: str, name: str, raw: bytes) -> None:
    """Put a payload beside the weights of a network, and name it as a shard of them."""
    from safetensors import safe_open

    (whole,) = folder.glob("*.safetensors")
    with safe_open(whole, "pt") as file:
        keys = list(file.keys())
    (folder / name).write_bytes(raw)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(keys, name)}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    whole.rename(folder / "other.safetensors")


def command_doors() -> dict[str, Door]:
    """The commands that take a model's file or folder."""
    commands: dict[str, list[str]] = {
        "inspect": ["inspect", "FILE"], "import": ["import", "FILE"], "convert": ["convert", "FILE"],
        "export": ["export", "FILE"], "resize": ["resize", "FILE", "--rank", "2"],
        "metadata": ["metadata", "FILE", "--set", "author=x"], "judge": ["judge", "FILE"],
        "merge": ["merge", "FILE:1", "FILE:1"], "mix": ["mix", "FILE:1"],
        "interference": ["interference", "FILE", "FILE"],
        "base add": ["base", "add", "FILE"], "base info": ["base", "info", "FILE"],
        "base fold": ["base", "fold", "FILE", "--adapter", "FILE", "--out", "out.safetensors"],
        "generate with an adapter": ["generate", "a cat", "--adapter", "FILE", "--base", "BASE"],
        "generate with a base": ["generate", "a cat", "--base", "FILE"],
        "generate with a VAE": ["generate", "a cat", "--base", "BASE", "--vae", "FILE"],
        "extract": ["extract", "FILE", "--base", "BASE", "--rank", "2"],
        "train": ["train", "FILE"], "bundle": ["bundle", "show", "FILE"],
    }  # fmt: skip

    def command(words: list[str]) -> Door:
        def door(raw: bytes, ending: str, place: Path) -> None:
            path = file_of(raw, ending, place)
            given = [word.replace("FILE", str(path)).replace("BASE", str(base_folder())) for word in words]
            code, said = _commanded(given, place)
            last = said.strip().splitlines()[-1:] or [""]
            if code != 2 or "Traceback" in said or not last[0].strip():
                raise AssertionError(f"pigment {words[0]} ended with {code}: {said[-200:]!r}")

        return door

    return {f"pigment {name}": command(words) for name, words in commands.items()}


def _commanded(words: list[str], place: Path) -> tuple[int, str]:
    """Run a command here: its code, and what it said on standard error."""
    from pytest import MonkeyPatch

    from studio.cli import main

    said = io.StringIO()
    with MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        patch.setenv("PIGMENT_WORKSPACE", str(place / "workspace"))
        (place / "here").mkdir()
        before = os.getcwd()
        os.chdir(place / "here")
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0) if not isinstance(end.code, str) else 2
        finally:
            os.chdir(before)
    return code, said.getvalue()
