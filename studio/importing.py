"""Adapters in: files of every form, PEFT's folders as zips, what lies beside them; refusals with reasons.

Names of dropped files are data: they say what belongs together and what an adapter is called, never where
something is written.
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError, StudioError
from pipelines.files import make_folder
from pipelines.formats import inspect_adapter
from pipelines.formats.peft_folder import COMPONENTS, CONFIG, MODEL
from pipelines.plain_json import parse_json
from studio import covers
from studio.amending import amend
from studio.archives import FREE, RATIO
from studio.entries import NAME_LENGTH, Entry
from studio.library import SIZE_LIMIT, Library, copy_file, refuse_early
from studio.work.job import ACTIVE
from studio.workspace import new_id

if TYPE_CHECKING:
    from studio.context import Context
    from studio.work.job import Job
    from studio.workspace import Workspace

KEPT_FOR = 86400.0  # seconds, of files that couldn't be taken
MAX_MEMBERS = 500  # of a zip
SIDECAR_LIMIT = 1_000_000  # bytes
PICTURE_LIMIT = 64_000_000  # bytes
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
TAKEN = (".safetensors", ".zip", ".json", *PICTURES)
"""Adapters and zips of them; sidecars and pictures of the same name go to the adapter beside them."""

Dropped = tuple[Path, str]
"""(file, the name it had)."""


@dataclass
class Taken:
    """What came of an import. entries: with whether each is new. refused: (name, reason)."""

    entries: list[tuple[Entry, bool]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _One:
    """An adapter that was dropped, and what lay beside it. path: a file, or a folder of PEFT's."""

    path: Path
    name: str
    sidecar: Path | None = None
    picture: Path | None = None


def start(context: Context, files: Sequence[Dropped]) -> Job:
    """Keep dropped files and queue taking them in.

    Raises:
        AdapterError: none of them is of a kind that can be an adapter's.
    """
    good = [(path, name) for path, name in files if PurePosixPath(name).suffix.lower() in TAKEN]
    if not any(PurePosixPath(name).suffix.lower() in TAKEN[:2] for _, name in good):
        shown = ", ".join(name for _, name in files[:3]) or "nothing"
        raise AdapterError(f"no adapter among {shown}; drop .safetensors files, or PEFT's folder as a .zip")
    job_id = new_id()
    kept = context.workspace.folder("cache", "imports")
    clear_old(context.workspace)
    folder = kept / job_id
    make_folder(folder)
    for number, (path, name) in enumerate(files):
        copy_file(path, folder / f"{number:04d}{_ending(name)}")
    names = [_shortened(name) for _, name in files]
    title = names[0] if len(names) == 1 else f"{len(names)} files"
    config = {"names": names, "folder": job_id}  # which another job has as well, when it is tried again
    job = context.jobs.submit("import", title[:80], config, id=job_id)
    context.runner.wake()
    return job


def clear_old(workspace: Workspace) -> None:
    """Remove what was dropped, of imports that failed or were killed and that nobody tried again."""
    from studio.jobs import Jobs

    waiting = {folder_of(workspace, job).name for job in Jobs(workspace).find(kind="import", states=ACTIVE)}
    for old in workspace.folder("cache", "imports").glob("*"):
        with suppress(OSError):
            if old.name not in waiting and old.stat().st_mtime < time.time() - KEPT_FOR:
                shutil.rmtree(old, ignore_errors=True)


def folder_of(workspace: Workspace, job: Job) -> Path:
    """Where the files of an import lie."""
    return workspace.folder("cache", "imports", Path(str(job.config.get("folder") or job.id)).name)


def staged(folder: Path, names: Sequence[str]) -> list[Dropped]:
    """The files that `start` kept, with their names.

    Raises:
        AdapterError: they are in the library, or were cleared away.
    """
    if not folder.is_dir():
        raise AdapterError("what was dropped isn't kept any more; drop it again")
    return [(folder / f"{number:04d}{_ending(name)}", name) for number, name in enumerate(names)]


def _shortened(name: str) -> str:
    """A name of bounded length with its ending, which says what it is."""
    pure = PurePosixPath(name)
    return f"{name.removesuffix(pure.suffix)[:180]}{pure.suffix[:20]}"


def take(
    library: Library, files: Sequence[Dropped], tell: Callable[[int, int], object] | None = None
) -> Taken:
    """Read dropped files whole and take the adapters among them into the library.

    tell(done, of): called before each adapter; what it raises ends the import there.
    """
    taken = Taken()
    with TemporaryDirectory(dir=library.workspace.folder("cache")) as scratch:
        found: list[_One] = []
        loose: list[Dropped] = []
        for number, (path, name) in enumerate(files):
            if PurePosixPath(name).suffix.lower() != ".zip":
                loose.append((path, name))
                continue
            try:
                found += _of_zip(path, name, Path(scratch) / f"z{number}")
            except StudioError as error:
                taken.refused.append((name, str(error)))
        found += _grouped(loose, taken)
        for done, one in enumerate(found):
            if tell is not None:
                tell(done, len(found))
            try:
                taken.entries.append(_take_one(library, one, Path(scratch)))
            except StudioError as error:
                taken.refused.append((one.name, str(error).replace(one.path.name, one.name)))
    return taken


def beside(path: Path) -> list[Dropped]:
    """A file with the sidecar and the picture of its name that lie beside it.

    Raises:
        AdapterError: it isn't there, or of no kind that an adapter has.
    """
    if path.suffix.lower() not in (".zip", ".safetensors"):
        refuse_early(path)
    if not path.is_file():
        raise AdapterError(f"no file {path}; expected a .safetensors file, a .zip or a folder of PEFT's")
    endings = [".json", *PICTURES, *(f".preview{ending}" for ending in PICTURES)]
    near = [path.with_name(f"{path.stem}{ending}") for ending in endings]
    return [(path, path.name), *((one, one.name) for one in near if one.is_file())]


def take_folder(library: Library, folder: Path) -> Taken:
    """Take a folder that PEFT wrote into the library. Raises: AdapterError."""
    with TemporaryDirectory(dir=library.workspace.folder("cache")) as scratch:
        one = _One(folder, f"{folder.resolve().name}.safetensors")
        return Taken(entries=[_take_one(library, one, Path(scratch))])


def _take_one(library: Library, one: _One, scratch: Path) -> tuple[Entry, bool]:
    """Check and add one adapter. Raises: AdapterError."""
    from pipelines.formats import read_adapter, write_adapter

    path = one.path
    if path.is_file():
        refuse_early(path)
    info = inspect_adapter(path)
    adapter = read_adapter(path)
    if path.is_dir():
        kept = {"F16": "fp16", "BF16": "bf16"}.get(str(info.get("dtype")), "fp32")
        path = scratch / f"{new_id()}.safetensors"
        write_adapter(adapter, path, "pigment", kept)
    stem = PurePosixPath(one.name).stem or "adapter"
    stated = str(info.get("title") or "")
    name = stem if not stated or stated == one.path.stem else stated
    entry, new = library.add(path, name=" ".join(name.split())[:NAME_LENGTH] or "adapter")
    if entry.origin != "imported":
        return entry, new
    # Also where it is there: its import may have been killed before it had what lay beside it.
    if one.sidecar is not None and (changes := _said_beside(one.sidecar, entry)):
        entry = amend(library, entry.id, changes)
    picture = one.picture or covers.embedded(info.get("metadata") or {})
    if picture is not None and (new or entry.cover is None):
        with suppress(StudioError):  # an adapter without a cover is better than none
            covers.set_cover(library, entry.id, picture)
    return library.get(entry.id), new


def _said_beside(sidecar: Path, entry: Entry) -> dict[str, str | None]:
    """What A1111's and Forge's `<name>.json` says and the file itself doesn't."""
    try:
        said: Any = parse_json(sidecar.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(said, dict):
        return {}
    known = entry.info.get("metadata") or {}
    found: dict[str, str | None] = {}
    if not entry.triggers and isinstance(said.get("activation text"), str):
        found["triggers"] = said["activation text"][:2000]
    for own, key in (("description", "modelspec.description"), ("notes", "modelspec.usage_hint")):
        if key not in known and isinstance(said.get(own), str) and said[own].strip():
            found[own] = said[own][:4000]
    return {name: text for name, text in found.items() if text}


def _grouped(files: Sequence[Dropped], taken: Taken) -> list[_One]:
    """Adapters with the sidecars and pictures of their names; what belongs to none is refused."""
    beside: dict[tuple[str, str], Path] = {}
    for path, name in files:
        pure = PurePosixPath(name)
        kind = "picture" if pure.suffix.lower() in PICTURES else pure.suffix.lower()
        beside[(pure.stem.removesuffix(".preview"), kind)] = path
    found = []
    for path, name in files:
        pure = PurePosixPath(name)
        if pure.suffix.lower() == ".safetensors":
            sidecar, picture = (beside.get((pure.stem, kind)) for kind in (".json", "picture"))
            found.append(_One(path, name, sidecar, picture))
        elif (pure.stem.removesuffix(".preview"), ".safetensors") not in beside:
            reason = _REFUSED.get(pure.suffix.lower(), "is no adapter; drop .safetensors files or a .zip")
            taken.refused.append((name, reason))
    return found


_REFUSED = {
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".bin", ".pkl"), "is a pickle file, which can run code when "
                    "opened; convert it to .safetensors first"),
    **dict.fromkeys((".json", *PICTURES), "belongs to no adapter that was dropped with it; drop the two "
                    "together, with one name"),
}  # fmt: skip


def _of_zip(path: Path, name: str, scratch: Path) -> list[_One]:
    """The adapters of a zip: PEFT's folders whole, and single files. Raises: AdapterError."""
    places: dict[str, Path] = {}
    files: dict[str, dict[str, Path]] = {}
    written = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            if len(members) > MAX_MEMBERS:
                raise AdapterError(f"it has {len(members):,} files, at most {MAX_MEMBERS} are looked at")
            for number, member in enumerate(members):
                pure = PurePosixPath(member.filename.replace("\\", "/"))
                limit = _limit(pure)
                if limit == 0 or pure.name.startswith("."):
                    continue
                folder = places.setdefault(str(pure.parent), scratch / f"d{len(places)}")
                fixed = pure.name if pure.name in (CONFIG, MODEL) else f"{number:04d}{_ending(pure.name)}"
                folder.mkdir(parents=True, exist_ok=True)
                most = min(limit, SIZE_LIMIT - written, FREE + RATIO * member.compress_size)
                written += _extract(archive, member, folder / fixed, most)
                files.setdefault(str(pure.parent), {})[pure.name] = folder / fixed
    except AdapterError:
        raise
    except Exception as error:  # zipfile and zlib raise nearly anything on damaged files
        raise AdapterError(f"it can't be unpacked ({error}); pack it again as a plain .zip") from None
    found = _folders(places, files, name, scratch)
    for place, inside in files.items():
        singles = [(file, own) for own, file in inside.items() if own not in (CONFIG, MODEL)]
        lone = Taken()
        for one in _grouped(singles, lone):
            plain = PurePosixPath(one.name).stem != "pytorch_lora_weights"
            called = one.name if plain else f"{_called(place, name)}.safetensors"
            found.append(_One(one.path, called, one.sidecar, one.picture))
    if not found:
        raise AdapterError("there is no adapter in it; expected .safetensors files, or PEFT's folder")
    return found


def _folders(
    places: dict[str, Path], files: dict[str, dict[str, Path]], name: str, scratch: Path
) -> list[_One]:
    """PEFT's folders of a zip, those of several components put together."""
    found: dict[str, _One] = {}
    for place, inside in files.items():
        if CONFIG not in inside:
            continue
        last, parent = PurePosixPath(place).name, str(PurePosixPath(place).parent)
        if last in COMPONENTS:
            whole = found[parent].path if parent in found else scratch / f"p{len(found)}"
            whole.mkdir(exist_ok=True)
            places[place].rename(whole / last)
            found.setdefault(parent, _One(whole, f"{_called(parent, name)}.safetensors"))
        else:
            found[place] = _One(places[place], f"{_called(place, name)}.safetensors")
    return list(found.values())


def _called(place: str, zip_name: str) -> str:
    """The name of an adapter without one of its own: its folder's, or the zip's."""
    return PurePosixPath(place).name or PurePosixPath(zip_name).stem


def _limit(pure: PurePosixPath) -> int:
    """Bytes that a member may have; 0: it isn't looked at."""
    if "__MACOSX" in pure.parts:
        return 0
    limits = {".safetensors": SIZE_LIMIT, ".json": SIDECAR_LIMIT, **dict.fromkeys(PICTURES, PICTURE_LIMIT)}
    return limits.get(pure.suffix.lower(), 0)


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, limit: int) -> int:
    """Stream a member into a file; returns its bytes. Raises: AdapterError for more than `limit`."""
    size = 0
    with archive.open(member) as read, target.open("xb") as file:
        while piece := read.read(1 << 20):
            size += len(piece)
            if size > limit:
                raise AdapterError(
                    f"{PurePosixPath(member.filename).name[:80]!r} in it unpacks to far more than fits"
                )
            file.write(piece)
    return size


def _ending(name: str) -> str:
    """The ending of a name where it is one that is looked at; ".other" else."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in TAKEN else ".other"
