"""Hub ids and what of them lies in the hub library's cache: no network, no library."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.bases.variants import PICKLES, choose_weights
from pipelines.errors import BaseError
from pipelines.families import FAMILIES

INDEX = "model_index.json"
NETWORKS = tuple(dict.fromkeys(part for row in FAMILIES.values() for part in (*row.components, "vae")))
PARTS = tuple(dict.fromkeys(part for row in FAMILIES.values() for part in row.parts))
_REF = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})(?:/(?P<file>[\w][\w ./()+-]*))?"
    r"(?:@(?P<revision>[\w][\w./-]{0,99}))?"
)


@dataclass(frozen=True)
class HubRef:
    """What a hub id names. file: one file of the repository; None for a pipeline folder."""

    repo: str
    file: str | None = None
    revision: str = "main"

    def __str__(self) -> str:
        named = self.repo if self.file is None else f"{self.repo}/{self.file}"
        return named if self.revision == "main" else f"{named}@{self.revision}"


def hub_ref(ref: str) -> HubRef | None:
    """Read a hub id, or return None for a text that can't be one. Nothing is looked up.

    `org/name`, `org/name/file.safetensors`, each with `@revision` behind it (a branch, tag or commit). A
    path that is there, or that begins with `.`, `/` or `~`, is no hub id: ask `Path.exists` first.

    Raises: BaseError where one pickle file of a repository is asked for.
    """
    found = _REF.fullmatch(ref)
    if found is None or ".." in ref or "//" in ref:
        return None
    file = found["file"]
    if file is not None and file.lower().endswith(PICKLES):
        raise BaseError(
            f"base {ref!r} is a pickle file, which is never opened; choose a .safetensors file of "
            f"{found['repo']}, or convert it elsewhere"
        )
    if file is not None and not file.endswith(".safetensors"):
        return None
    return HubRef(found["repo"], file, found["revision"] or "main")


def local_base(ref: HubRef, *, half: bool = False) -> Path | None:
    """Return the folder or file of a hub id that is whole on this machine, or None; asks no network.

    half: which variant is looked for first; a whole base in the other one is taken as well.
    """
    snapshot = _snapshot(ref)
    if snapshot is None:
        return None
    if ref.file is not None:
        return snapshot / ref.file if (snapshot / ref.file).is_file() else None
    if (snapshot / INDEX).is_file():
        return None if _missing(snapshot, half) else snapshot
    files = sorted(snapshot.glob("*.safetensors"))
    return files[0] if len(files) == 1 and not (snapshot / "unet").exists() else None


def endpoint() -> str:
    """Address of the hub: `HF_ENDPOINT`, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def cache_folder() -> Path:
    """Folder of the hub library's cache, as the environment says now."""
    env = os.environ
    root = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    chosen = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or os.path.join(root, "hub")
    return Path(os.path.expandvars(chosen)).expanduser().resolve()


def offline() -> bool:
    """Whether the environment forbids asking the hub."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def repo_folder(ref: HubRef) -> Path:
    return cache_folder() / f"models--{ref.repo.replace('/', '--')}"


def _snapshot(ref: HubRef) -> Path | None:
    """The folder of a hub id's commit in the cache, whole or not."""
    folder = repo_folder(ref)
    commit = ref.revision
    try:
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            commit = (folder / "refs" / ref.revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if re.fullmatch(r"[\w-]+", commit) and snapshot.is_dir() else None


def read_index(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _missing(snapshot: Path, half: bool) -> list[str]:
    """What a pipeline folder lacks of the parts that its index names."""
    index = read_index(snapshot / INDEX)
    missing = []
    for part in PARTS:
        named = index.get(part)
        if not (isinstance(named, list) and named and named[0]):
            continue
        names = [path.name for path in (snapshot / part).glob("*") if path.is_file()]
        config = any(name.endswith(".json") for name in names)
        if not config or (part in NETWORKS and not choose_weights(names, half=half)):
            missing.append(part)
    return missing


def gaps(ref: HubRef, half: bool) -> str:
    snapshot = _snapshot(ref)
    if snapshot is None or ref.file is not None or not (snapshot / INDEX).is_file():
        return ""
    return f" (it lacks {', '.join(_missing(snapshot, half))})"
