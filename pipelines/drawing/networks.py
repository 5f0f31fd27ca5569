"""Networks beside the base's own, loaded from folders when a drawing wants them and kept for the next."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pipelines.errors import BaseError

if TYPE_CHECKING:
    from pipelines.base import Base

_KEPT: WeakKeyDictionary[Any, dict[str, dict[Hashable, Any]]] = WeakKeyDictionary()


def keep(base: Base, kind: str, wanted: Mapping[Hashable, Callable[[], Any]]) -> dict[Hashable, Any]:
    """Return what is wanted by key, made where it isn't there yet; others of the kind are let go first."""
    kinds = _KEPT.setdefault(base, {})
    kinds[kind] = {key: value for key, value in kinds.get(kind, {}).items() if key in wanted}
    for key, make in wanted.items():
        if key not in kinds[kind]:
            kinds[kind][key] = make()
    return kinds[kind]


def stamp(path: Path) -> tuple[object, ...]:
    """What tells a file, or a folder's files, from one that was written anew."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(file.name, file.stat()) for file in files]
    return (str(path), *((name, state.st_mtime_ns, state.st_size) for name, state in states))


def read_config(folder: Path, what: str, wanted: str) -> dict[str, Any]:
    """Return a network folder's config.json.

    what: the network's name in messages. wanted: what its folder should hold.
    Raises: BaseError where there is no such folder, config or safetensors file.
    """
    if not folder.is_dir():
        raise BaseError(f"{what}: no such folder; give {wanted}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise BaseError(f"{what} has no readable config.json; give {wanted}")
    if not list(folder.glob("*.safetensors")):
        raise BaseError(
            f"{what} has no .safetensors file, and pickle weights are never opened; give {wanted}"
        )
    return config


def load_network(base: Base, kind: Any, folder: Path, what: str, *, whole: bool = False) -> Any:
    """Load a network from safetensors only, frozen, on the base's device and in its precision.

    kind: a class of diffusers or transformers. whole: whether the file may hold nothing but the network's
    weights. Raises: BaseError for a broken one, one with gaps, or one with more than there may be.
    """
    from pipelines.base import quiet
    from pipelines.bases.shards import check_weights

    check_weights(folder, what)
    try:
        with quiet():
            model, report = kind.from_pretrained(
                folder,
                dtype=base.dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a library makes of a config
        raise BaseError(f"{what} can't be loaded: {_first_line(error)}; fetch its folder again") from error
    lacking = sorted(key for key in report["missing_keys"] if not key.endswith("position_ids"))
    if lacking:
        raise BaseError(f"{what} lacks {len(lacking)} weights, for instance {lacking[0]}; fetch it again")
    surplus = sorted(report["unexpected_keys"]) if whole else []
    if surplus:
        raise BaseError(
            f"{what} holds {len(surplus)} weights that its config has no place for, such as {surplus[0]}; "
            "fetch its folder again"
        )
    return model.to(base.device).eval().requires_grad_(False)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
