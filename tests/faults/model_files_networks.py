"""The doors by which networks, checkpoints, caches and pictures come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.model_files_doors import Door, base_folder, file_of, name_in_index
from tests.faults.model_files_seeds import tiny_base


def knocked(act: Callable[[], object]) -> str | None:
    """Hand a payload in; what was wrong with the answer: it has to be a refusal in one line, or silence of
    what isn't looked at.
    """
    from pipelines.errors import StudioError

    try:
        act()
    except StudioError as refusal:
        said = str(refusal)
        return f"a refusal of several lines: {said[:200]!r}" if "\n" in said or len(said) > 600 else None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    return None


def network_doors() -> dict[str, Door]:
    """Networks that diffusers and transformers load for us, out of folders."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    from pipelines.drawing.image_prompt import image_prompted
    from pipelines.drawing.networks import load_network
    from pipelines.generation import ImagePromptUse
    from trainers.captioning import load_captioner
    from trainers.evidence.judges import load_likeness

    kinds = (
        ("unet", UNet2DConditionModel, "diffusion_pytorch_model"),
        ("text_encoder", CLIPTextModel, "model"),
    )

    def network(spoil: Callable[[Path, str, str, bytes], None]) -> Door:
        def door(raw: bytes, ending: str, place: Path) -> None:
            refusals = []
            for part, kind, stem in kinds:
                folder = shutil.copytree(base_folder() / part, place / part)
                spoil(folder, stem, ending, raw)
                refusals.append(knocked(partial(load_network, tiny_base(), kind, folder, part)))
            if any(refusals):
                raise AssertionError(next(filter(None, refusals)))

        return door

    def as_shard(folder: Path, stem: str, ending: str, raw: bytes) -> None:
        name_in_index(folder, stem, f"evil{ending or '.bin'}", raw)

    def as_weights(folder: Path, stem: str, ending: str, raw: bytes) -> None:
        for file in folder.glob("*.safetensors"):
            file.write_bytes(raw)

    def prompted(raw: bytes, ending: str, place: Path) -> None:
        from PIL import Image

        use = ImagePromptUse(ref=str(file_of(raw, ending, place)))
        with image_prompted(tiny_base(), use, Image.new("RGB", (8, 8))):
            pass

    def judged(load: Callable[[str], object]) -> Door:
        def door(raw: bytes, ending: str, place: Path) -> None:
            folder = shutil.copytree(base_folder() / "text_encoder", place / "model")
            as_shard(folder, "model", ending, raw)
            load(str(folder))

        return door

    return {
        "as a shard of a ControlNet or encoder": network(as_shard),
        "as a ControlNet's or encoder's weights": network(as_weights),
        "as an IP-Adapter": prompted,
        "as a shard of a captioner": judged(load_captioner),
        "as a shard of a judge": judged(load_likeness),
    }


def run_doors() -> dict[str, Door]:
    """What a run keeps and reads again."""
    import torch

    from trainers import checkpoint
    from trainers.caching.store import Store

    def resumed(raw: bytes, ending: str, place: Path) -> None:
        for step in (1, 2):
            checkpoint.commit(
                place, step, {"adapter": {"a": torch.ones(2)}, "optimizer": {"b": torch.ones(2)}}, {}
            )
        newest = place / "step-000002"
        (newest / "optimizer.safetensors").write_bytes(raw)
        (newest / "optimizer.pt").write_bytes(raw)
        found, notes = checkpoint.latest(place)
        if found is None or found.step != 1 or not notes:
            raise AssertionError("the spoilt checkpoint wasn't passed over")

    def sealed(raw: bytes, ending: str, place: Path) -> None:
        """With a manifest that holds the payload's own hash, as one who hands a run on may write it."""
        import hashlib

        path = checkpoint.commit(place, 1, {"optimizer": {"b": torch.ones(2)}}, {"x": 1})
        (path / "optimizer.safetensors").write_bytes(raw)
        manifest = json.loads((path / "MANIFEST.json").read_text())
        manifest["optimizer.safetensors"] = hashlib.sha256(raw).hexdigest()
        (path / "MANIFEST.json").write_text(json.dumps(manifest))
        found, _ = checkpoint.latest(place)
        assert found is not None
        found.tensors("optimizer")

    def cached(raw: bytes, ending: str, place: Path) -> None:
        store = Store(place)
        store.write("ab" * 16, {"a": torch.ones(2)})
        for file in [one for one in place.rglob("*") if one.is_file()]:
            file.write_bytes(raw)
        if store.read("ab" * 16) is not None:
            raise AssertionError("a spoilt entry of the cache was used")

    return {
        "as a checkpoint's optimizer": resumed,
        "as a checkpoint's optimizer, sealed": sealed,
        "as a cached latent": cached,
    }


def picture_doors() -> dict[str, Door]:
    from trainers.images import read_picture

    def picture(raw: bytes, ending: str, place: Path) -> None:
        (place / "x.png").write_bytes(raw)
        read_picture(place / "x.png")

    return {"as a picture": picture}
