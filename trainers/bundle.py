"""The run bundle: a run's config, the hashes of all that it learned from, where it was made, what came out.

`write_bundle` is told what a run has at hand at its end; `trainers.bundle_again` makes the run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError
from pipelines.files import file_sha256, make_folder, write_atomic
from trainers import events
from trainers.bundle_format import (
    BUNDLE,
    BUNDLE_NAME,
    RECIPE_NAME,
    Bundle,
    Data,
    Environment,
    Kept,
    Made,
    Taught,
    TaughtBase,
    read_bundle,
)
from trainers.bundle_places import file_hashes, local_places, plain_config
from trainers.config import TrainConfig
from trainers.evidence.provenance import machine, versions
from trainers.run_folder import ADAPTER_NAME, CHOICES_NAME

if TYPE_CHECKING:
    from pipelines.base import Base
    from trainers.dataset import Dataset, Item
    from trainers.preparing import Cuts

LIBRARIES = ("numpy", "pillow", "safetensors", "tokenizers", "accelerate")
"""What bits depend on beside the libraries that every measurement names."""
_OF_THE_MACHINE = ("processor", "extensions", "system")


@dataclass(frozen=True, eq=False)
class Told:
    """What a run has at hand.

    config: as it was asked for. chosen: with what was chosen for the machine (`Choices.applied`).
    base_sha256: of the base's files as they were at the start. processes: that share the run.
    """

    config: TrainConfig
    chosen: TrainConfig
    dataset: Dataset
    cuts: Cuts
    base: Base
    base_sha256: str
    processes: int = 1


def write_bundle(folder: Path, told: Told, step: int) -> Path:
    """Write the bundle of a run whose adapter.safetensors is written; return the path of its bundle.toml.

    folder: the run's. step: which one the adapter is of. Nothing of the base's numbers is used. Where the
    folder has the bundle of this very file it stays: a run that had ended was only opened again, and what
    it computed with is what counts.

    Raises: OSError where the system refuses; StudioError where the base's files aren't what they were.
    """
    config, base = told.config, told.base
    adapter = folder / ADAPTER_NAME
    path = folder / BUNDLE / BUNDLE_NAME
    made = _made(adapter, folder, step, config.run.steps)
    if _already(path, made):
        return path
    choices = folder / CHOICES_NAME
    bundle = Bundle(
        name=config.adapter_name,
        choices=choices.read_text(encoding="utf-8") if choices.is_file() else "",
        local=local_places(config),
        made=made,
        base=TaughtBase(
            name=plain_config(config)["run"]["base"],
            family=base.family.id,
            sha256=told.base_sha256,
            vae_sha256=None if base.source is None else base.source.vae_sha256,
        ),
        environment=environment(told),
        files=file_hashes(config),
        config=plain_config(config),
        data=data_of(told),
    )
    make_folder(folder / BUNDLE)
    _write_recipe(folder / BUNDLE / RECIPE_NAME, adapter, bundle, config)
    write_atomic(path, [bundle.as_toml().encode()])
    return path


def _already(path: Path, made: Made) -> bool:
    """Whether there is a readable bundle of the same file."""
    try:
        return read_bundle(path).made.sha256 == made.sha256
    except ConfigError:
        return False


def _made(adapter: Path, folder: Path, step: int, steps: int) -> Made:
    """What came out."""
    from pipelines.formats.container import data_sha256, read_header

    resumed = [
        one.step for one in events.read(folder) if one.kind == "stage" and one.data.get("stage") == "resume"
    ]
    return Made(
        sha256=file_sha256(adapter),
        tensors_sha256=data_sha256(adapter, read_header(adapter).data_start),
        bytes=adapter.stat().st_size,
        step=step,
        resumed=tuple(sorted({at for at in resumed if at < steps})),
    )


def data_of(told: Told) -> Data:
    """Say what was learned from, picture by picture."""
    data, dataset = told.config.data, told.dataset
    parts = [(item, held) for held, part in enumerate((dataset.learn, dataset.held_out)) for item in part]
    pictures = sorted((taught(item, bool(held)) for item, held in parts), key=lambda one: one.name)
    words = [item.source.path.with_suffix(".txt") for item, _ in parts if data.captions == "sidecar"]
    if data.captions == "table":
        from trainers.captions import find_table

        words.append(find_table(data.instance_images, data.captions_file))
    words += [item.mask_source.path for item, _ in parts if item.mask_source is not None]
    given = told.cuts.class_pictures
    return Data(
        sha256=told.cuts.sha256,
        pictures=tuple(pictures),
        class_pictures=tuple(taught(item) for item in given),
        drawn=tuple(_drawn(told)) if data.prior_weight > 0 else (),
        beside=_beside(words, data.instance_images),
        class_beside=_beside([item.source.path.with_suffix(".txt") for item in given], data.class_images),
    )


def taught(item: Item, held_out: bool = False) -> Taught:
    """Say of a picture what a run depends on."""
    mask = item.mask_source.sha256 if item.mask_source is not None else "alpha" if item.masked else ""
    return Taught(
        name=readable(item.name), sha256=item.source.sha256, caption=text_sha256(item.caption),
        repeats=item.repeats, mask=mask, held_out=held_out,
    )  # fmt: skip


def _drawn(told: Told) -> Iterator[Kept]:
    """The class pictures that the base drew for the run."""
    from trainers.preparing import resolution_of
    from trainers.prior import CLASS_PICTURES, cache_folder, plan, where_drawn

    config = told.config
    planned = plan(config.data)[len(told.cuts.class_pictures) :]
    cache = cache_folder(config.run.cache)
    for path in where_drawn(told.base, planned, cache, resolution_of(told.base, config)):
        name = path.relative_to(cache / CLASS_PICTURES).as_posix()
        yield Kept(name=name, sha256=file_sha256(path))


def _beside(files: Sequence[Path], folder: Path | None) -> tuple[Kept, ...]:
    """Those of the files that are there, each once."""
    there = sorted({path for path in files if path.is_file()})
    return tuple(
        Kept(name=readable(path.relative_to(folder).as_posix()), sha256=file_sha256(path))
        for path in there
        if folder is not None
    )


def environment(told: Told) -> Environment:
    """Where a run computes, and with what."""
    import torch

    run, base = told.chosen.run, told.base
    # Its numbers may have been chosen for the run alone, and be back as they were by now.
    device: dict[str, Any] = {} if base.setup is None else base.setup.as_data()
    for name in ("attention", "channels_last", "mixed_precision"):
        device[name] = device.get(name) if getattr(run, name) is None else getattr(run, name)
    device |= device_of(base.device)
    return Environment(
        threads=run.threads or torch.get_num_threads(),
        processes=told.processes,
        device={name: value for name, value in device.items() if value is not None},
        versions=library_versions(),
        machine=this_machine(),
    )


def device_of(device: Any) -> dict[str, Any]:
    """What bits depend on of a torch device: its name, its library, how it multiplies."""
    import torch

    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "library": f"CUDA {torch.version.cuda}" if cuda and torch.version.cuda else None,
        "instructions": None if cuda else torch.backends.cpu.get_cpu_capability(),
        "matmul": torch.get_float32_matmul_precision(),
    }


def library_versions() -> dict[str, str]:
    """Versions of all that bits depend on."""
    return versions(LIBRARIES)


def this_machine() -> dict[str, Any]:
    """The processor, its extensions and the system."""
    found = machine()
    return {name: found[name] for name in _OF_THE_MACHINE if name in found}


def _write_recipe(path: Path, adapter: Path, bundle: Bundle, config: TrainConfig) -> None:
    """The adapter alone at full weight, as a mix that `pigment generate --recipe` and the page open."""
    from pipelines.recipe import Recipe, RecipeBase, ingredient

    entry = ingredient(adapter, bundle.name, (config.data.trigger,))
    about = RecipeBase(ref=bundle.base.name[:1000], family=bundle.base.family, sha256=bundle.base.sha256)
    recipe = Recipe(name=bundle.name[:200], base=about, adapters=(entry,), prompt=config.data.instance_prompt)
    write_atomic(path, [json.dumps(recipe.model_dump(mode="json"), indent=2, ensure_ascii=False).encode()])


def text_sha256(text: str) -> str:
    """SHA-256 of a text, which may come from a name that is no UTF-8."""
    return sha256(text.encode(errors="surrogateescape")).hexdigest()


def readable(name: str) -> str:
    """A file's name as a text that UTF-8 can hold."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
