"""A base on a hub: `org/name`, `org/name@revision` or `org/name/file.safetensors` → a local folder or file.

Files lie in the hub library's own cache (`HF_HOME`), so that other tools find them and theirs are found
here. What is there whole is used without any network; what isn't is fetched, and after a break goes on
where it stopped. Only JSON, text and safetensors files of the parts that are loaded are fetched, and of the
safety checker where the base brings one. The
environment (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`) is read at each call.

The hub library (2.4) throws an unfinished file away at the end of the process, so the bytes are fetched
here (see `transfer`), over plain HTTP, and only put into its cache by it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.bases.hub_errors import explained
from pipelines.bases.hub_local import (
    INDEX,
    NETWORKS,
    PARTS,
    HubRef,
    cache_folder,
    endpoint,
    gaps,
    hub_ref,
    local_base,
    offline,
    read_index,
    repo_folder,
)
from pipelines.bases.variants import PICKLES, choose_weights
from pipelines.errors import BaseError, nearest
from pipelines.families import FAMILIES
from pipelines.files import write_atomic

if TYPE_CHECKING:
    from pipelines.bases.transfer import Remote

__all__ = [
    "HubRef",
    "OnProgress",
    "Progress",
    "cache_folder",
    "endpoint",
    "fetch_base",
    "hub_ref",
    "local_base",
]

DISK_MARGIN = 64 << 20  # bytes that must stay free beside what is fetched


@dataclass(frozen=True)
class Progress:
    """How far a download is, in bytes of everything that the base needs; what was there counts as done."""

    repo: str
    file: str
    done: int
    total: int


OnProgress = Callable[[Progress], object]
"""Called as bytes arrive; what it raises ends the download, which goes on from there the next time."""


def fetch_base(ref: HubRef, *, half: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Return the local folder or file of a hub id, fetching what isn't there.

    half: whether the base is wanted in half precision; fp16 files are fetched then where the repository
    has them. A repository without `model_index.json` but with one .safetensors file gives that file.

    Raises: BaseError in one line: no network, offline, no such repository, gated, pickles only, disk full.
    """
    found = local_base(ref, half=half)
    if found is not None:
        return found
    with explained(ref):
        if offline():
            raise BaseError(
                f"base '{ref}' isn't whole on this machine{gaps(ref, half)} and HF_HUB_OFFLINE is set; "
                f"unset it to fetch, or give a folder"
            )
        return _Download(ref, half, on_progress).run()


class _Download:
    """One download: list, choose, check the disk, fetch, name the commit."""

    def __init__(self, ref: HubRef, half: bool, on_progress: OnProgress | None) -> None:
        from huggingface_hub import HfApi

        self.ref, self.half, self.on_progress = ref, half, on_progress
        self.api = HfApi(endpoint=endpoint())
        self.folder = repo_folder(ref)
        self.commit = ""
        self.files: dict[str, Remote] = {}
        self.done = self.total = 0

    def run(self) -> Path:
        self.commit = _name(self.api.model_info(self.ref.repo, revision=self.ref.revision).sha)
        self.files = dict(self._listed())
        snapshot = self.folder / "snapshots" / self.commit
        if self.ref.file is None and INDEX in self.files:
            on_progress, self.on_progress = self.on_progress, None
            self._fetch((INDEX,))
            self.on_progress = on_progress  # from here the total is known
            index = read_index(snapshot / INDEX)
            self._refuse_foreign(index)
            self._fetch([*self._of_the_checker(index), *self._of_the_parts()])
            result = snapshot
        else:
            name = self._one_file()
            self._fetch((name,))
            result = snapshot / name
        if self.ref.revision != self.commit:  # last: a ref says that its snapshot was fetched
            refs = self.folder / "refs" / self.ref.revision
            refs.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(refs, [self.commit.encode()])
        return result

    def _listed(self) -> Iterator[tuple[str, Remote]]:
        from huggingface_hub import RepoFile

        from pipelines.bases.transfer import Remote

        for entry in self.api.list_repo_tree(self.ref.repo, recursive=True, revision=self.commit):
            if not isinstance(entry, RepoFile):
                continue
            lfs = entry.lfs
            size, digest = (entry.size, entry.blob_id) if lfs is None else (lfs.size, lfs.sha256)
            yield entry.path, Remote(self.ref.repo, self.commit, entry.path, int(size), _name(digest))

    def _refuse_foreign(self, index: Mapping[str, Any]) -> None:
        """Refuse other kinds of pipelines before gigabytes of them are fetched."""
        name = str(index.get("_class_name"))
        kinds = {row.pipeline_class.removesuffix("Pipeline"): row.label for row in FAMILIES.values()}
        plain = name.removesuffix("Pipeline").removesuffix("Inpaint").removesuffix("Img2Img")
        if plain not in kinds:
            labels = ", ".join(dict.fromkeys(row.label for row in FAMILIES.values()))
            raise BaseError(f"base '{self.ref}' is a {name}; supported: {labels}")

    def _of_the_parts(self) -> list[str]:
        """The files of every part; the networks' weights last. Raises: BaseError for pickles alone."""
        small, weights = [], []
        for part in PARTS:
            names = self._names(part)
            small += [f"{part}/{name}" for name in names if name.endswith((".json", ".txt"))]
            if not names or part not in NETWORKS:
                continue
            chosen = choose_weights(names, half=self.half)
            if not chosen:
                raise BaseError(
                    f"base '{self.ref}' has no whole .safetensors weights in {part}/ "
                    f"({_kinds(names)}); pickles are never opened: ask its author for safetensors, try "
                    f"{self.ref.repo}@refs/pr/1, or convert it elsewhere"
                )
            weights += [f"{part}/{name}" for name in chosen]
        return small + weights

    def _of_the_checker(self, index: Mapping[str, Any]) -> list[str]:
        """The files of the safety checker that the base brings, none where it is a pickle.

        They come before the parts, so that whoever finds these whole finds the checker too.
        """
        named = index.get("safety_checker")
        if not (isinstance(named, list) and named and named[0]):
            return []
        weights = [name for name in choose_weights(self._names("safety_checker"), half=False)
                   if ".fp16" not in name]  # fmt: skip
        extractor = [name for name in self._names("feature_extractor") if name.endswith(".json")]
        if not weights or not extractor or "config.json" not in self._names("safety_checker"):
            return []
        checker = [f"safety_checker/{name}" for name in ("config.json", *weights)]
        return [*(f"feature_extractor/{name}" for name in extractor), *checker]

    def _names(self, part: str) -> list[str]:
        """The names of the files in a part's folder."""
        found = [path for path in self.files if path.startswith(f"{part}/") and path.count("/") == 1]
        return [path.split("/")[1] for path in found]

    def _one_file(self) -> str:
        wanted, there = self.ref.file, sorted(name for name in self.files if name.endswith(".safetensors"))
        if wanted is not None:
            if wanted not in self.files:
                raise BaseError(f"{self.ref.repo} has no file {wanted!r}{nearest(wanted, there)}")
            return wanted
        top = [name for name in there if "/" not in name]
        if len(top) == 1:
            return top[0]
        if top:
            raise BaseError(
                f"{self.ref.repo} holds {len(top)} .safetensors files and no pipeline; name one, "
                f"for instance {self.ref.repo}/{top[0]}"
            )
        raise BaseError(
            f"{self.ref.repo} holds no base ({_kinds(self.files)}); expected {INDEX} or a .safetensors file"
            + ("; pickles are never opened: ask its author for safetensors, or convert it elsewhere"
               if any(name.endswith(PICKLES) for name in self.files) else "")
        )  # fmt: skip

    def _fetch(self, names: Iterable[str]) -> None:
        from huggingface_hub import hf_hub_download

        from pipelines.bases.transfer import fetch_blob, missing_bytes

        wanted = [self.files[name] for name in names]
        self.total = self.done + sum(remote.size for remote in wanted)
        snapshot = self.folder / "snapshots" / self.commit
        absent = [remote for remote in wanted if not (snapshot / remote.path).exists()]
        self.done = self.total - sum(remote.size for remote in absent)
        self._check_disk(sum(missing_bytes(remote, self.folder) for remote in absent))
        for remote in absent:
            before = self.done

            def tell(there: int, remote: Remote = remote, before: int = before) -> None:
                self.done = before + there
                if self.on_progress is not None:
                    self.on_progress(Progress(self.ref.repo, remote.path, self.done, self.total))

            fetch_blob(remote, self.folder, endpoint(), tell)
            hf_hub_download(
                self.ref.repo, remote.path, revision=self.commit, cache_dir=self.folder.parent,
                endpoint=endpoint(),
            )  # fmt: skip
            tell(remote.size)

    def _check_disk(self, needed: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if needed and free < needed + DISK_MARGIN:
            raise BaseError(
                f"base '{self.ref}' needs {_megabytes(needed)} more and {_megabytes(free)} are free in "
                f"{self.folder.parent}; make room, or name another folder with HF_HOME"
            )


def _kinds(names: Iterable[str]) -> str:
    """The endings of file names with their numbers, as a message shows them."""
    endings = [Path(name).suffix or Path(name).name for name in names]
    counted = sorted({ending: endings.count(ending) for ending in endings}.items())
    return "found " + ", ".join(f"{count} {ending}" for ending, count in counted[:6]) if counted else "empty"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _name(digest: object) -> str:
    """A commit or digest as a file's name. Raises: BaseError for anything else, which could be a path."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", str(digest)):
        raise BaseError(f"{endpoint()} answered {str(digest)[:60]!r} where a hash was expected; is it a hub?")
    return str(digest)
