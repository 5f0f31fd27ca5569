"""NaN and infinity in what a training reads: its cache, and the base."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest import MonkeyPatch

from tests.faults.not_finite_runs import (
    BAD,
    VARIANTS,
    Run,
    config_in,
    in_one_line,
    undisturbed,
    unsound_files,
)
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    import torch

UNET_ALONE = "unet alone"  # a variant whose captions are kept in the cache


# ── What is cached


def _poisoned(cache: Path, kind: str, value: float) -> int:
    """Put a number into every entry of one kind, sealed as if it had been written so; returns how many."""
    from safetensors.torch import load, save

    from trainers.caching.store import _SEAL, _seal

    count = 0
    for path in (cache / kind).glob("*/*.safetensors"):
        tensors = load(path.read_bytes())
        name = next(name for name in ("mean", "hidden") if name in tensors)
        tensors[name].reshape(-1)[0] = value
        path.write_bytes(save(tensors, {_SEAL: _seal(path.stem, tensors)}))
        count += 1
    return count


def _cached(kind: str, folder: Path, value: float) -> str | None:
    """Learn with a cache that holds such numbers: they are made again, and nobody sees a difference."""
    cache, fields = folder / "cache", VARIANTS[UNET_ALONE]
    first = Run.of(config_in(folder, cache=cache, **fields))
    assert first.error is None, first.error
    shutil.rmtree(folder / "run")
    assert _poisoned(cache, kind, value), f"no {kind} are cached"
    run = Run.of(config_in(folder, cache=cache, **fields))
    if run.error is not None:
        return f"it ended: {run.error}"
    if run.sha256 != undisturbed(UNET_ALONE):
        return "another adapter came of it"
    if not any("made again" in warning for warning in run.warnings):
        return "no warning says that entries were made again"
    return next(iter(unsound_files(folder)), None)


# ── The base


@contextmanager
def _damaged(part: str, value: float) -> Iterator[None]:
    """Let every base be loaded with such a number in a weight that everything goes through."""
    from trainers import loop

    real = loop.load_base

    def load(*given: Any, **more: Any) -> Any:
        base = real(*given, **more)
        parameters = list(base.component(part).parameters())
        weight = parameters[-1] if part.startswith("text") else parameters[0]
        weight.data.reshape(-1)[0] = value
        return base

    with MonkeyPatch.context() as patch:
        patch.setattr(loop, "load_base", load)
        yield


def _base(part: str, fields: dict[str, Any], folder: Path, value: float) -> str | None:
    """Learn on a damaged base: it is said before anything is learned, and nothing is kept."""
    with _damaged(part, value):
        run = Run.of(config_in(folder, cache=folder / "cache", **fields))
    if (odd := in_one_line(run.error)) is not None:
        return odd
    if run.step:
        return f"it learned {run.step} steps"
    if "base" not in str(run.error) or "learning_rate" in str(run.error):
        return f"it doesn't say that it is the base: {run.error}"
    if (run.folder / "adapter.safetensors").exists() or (run.folder / "checkpoints").exists():
        return "it wrote an adapter or a checkpoint"
    made = list((folder / "cache" / "class_pictures").glob("*/*.png"))
    return f"class pictures were kept: {made[0].name}" if made else next(iter(unsound_files(folder)), None)


_FIELDS: dict[str, dict[str, Any]] = {
    "": {},
    " of a run that is measured": VARIANTS["measured"],
    " of a run with previews": {"preview_every": 2},
    " of a run with class pictures": {"prior_weight": 1.0, "num_class_images": 2},
}


def _kinds() -> dict[str, Callable[[Path, float], str | None]]:
    """What may hold the number, by name: tries it in a folder, and says what went wrong."""
    found: dict[str, Callable[[Path, float], str | None]] = {}
    for kind in ("latents", "texts"):
        found[f"cached {kind}"] = partial(_cached, kind)
    for (said, fields), part in product(reversed(_FIELDS.items()), ("unet", "text_encoder", "vae")):
        found[f"the {part}{said}"] = partial(_base, part, fields)
    order = ("cached latents", "the unet of a run that is measured", "cached texts")
    return {name: found[name] for name in (*order, *(name for name in found if name not in order))}


def run(task: Task, tally: Tally) -> None:
    """Put a number into each in turn."""
    kinds = _kinds()
    for number, (bad, name) in enumerate(product(BAD, kinds)):
        if tally.tried >= task.count:
            return
        tally.happened(f"{bad} in {name}", kinds[name](task.folder / str(number), BAD[bad]))


# ── Safeguards


def _cache_is_trusted(patch: MonkeyPatch) -> None:
    patch.setattr("trainers.caching.store._finite", lambda tensors: True)


def _base_is_trusted(patch: MonkeyPatch) -> None:
    from trainers.looking import Looks

    def predicted(self: Looks) -> dict[str, list[torch.Tensor]]:
        sets = self.prepared.fixed.sets
        return {name: one.predictions(self.base, self.encode) for name, one in sets.items()}

    patch.setattr(Looks, "_predicted_by_base", predicted)


PLANTS = {
    "what is cached is trusted": _cache_is_trusted,
    "what the base predicts is trusted": _base_is_trusted,
}
