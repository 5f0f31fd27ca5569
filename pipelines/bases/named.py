"""Networks that transformers loads by a name (captioners, judges): a folder, or a hub id that is fetched."""

from __future__ import annotations

from pathlib import Path

from pipelines.bases.hub_errors import explained
from pipelines.bases.hub_local import cache_folder, endpoint, hub_ref, offline
from pipelines.bases.shards import check_weights
from pipelines.errors import BaseError

FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""What is fetched of a repository's top folder: weights that hold no code, and words."""


def model_folder(name: str, what: str) -> Path:
    """The folder of a network, whose weights are held to `check_weights` before any library opens them.

    A hub id is looked for in the hub library's cache (`HF_HOME`) and fetched into it where it isn't there;
    only FETCHED comes along, so a pickle doesn't even reach the disk.

    Args:
        name: a folder, `org/name` or `org/name@revision`.
        what: the network's name in messages.
    Raises:
        BaseError: it isn't there, can't be fetched, or has no weights as .safetensors.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _fetched(name, what)
    check_weights(folder, what)
    return folder


def _fetched(name: str, what: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    ref = hub_ref(name)
    if ref is None or ref.file is not None:
        raise BaseError(f"{what}: {name!r} is no folder here and no hub id such as org/name")

    def snapshot(local: bool) -> Path:
        return Path(
            snapshot_download(
                ref.repo, revision=ref.revision, cache_dir=cache_folder(), endpoint=endpoint(),
                allow_patterns=list(FETCHED), ignore_patterns=["*/*", "*.fp16.*"], local_files_only=local,
            )
        )  # fmt: skip

    try:
        there = snapshot(local=True)
        if _whole(there):
            return there
    except LocalEntryNotFoundError:
        pass
    with explained(ref, what):
        if offline():
            raise BaseError(f"{what}: {name!r} isn't whole on this machine and HF_HUB_OFFLINE is set")
        found = snapshot(local=False)
    if not _whole(found):
        raise BaseError(f"{what}: {name!r} holds no .safetensors weights; pickles are never opened")
    return found


def _whole(folder: Path) -> bool:
    """Whether there are a config and weights, all shards of them."""
    from pipelines.bases.variants import choose_weights

    names = [path.name for path in folder.iterdir() if path.exists()]
    return "config.json" in names and bool(choose_weights(names, half=False))
