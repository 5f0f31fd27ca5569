"""A run made again from its bundle: its inputs found and held against it, and what comes out compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, StudioError
from pipelines.files import file_sha256, write_atomic
from trainers import bundle_differences as differences
from trainers.bundle_differences import Difference
from trainers.bundle_format import BUNDLE, Bundle, bundle_file, is_bundle, parse_bundle, read_bundle
from trainers.bundle_places import MOVED
from trainers.bundle_zip import CACHE_FOLDER, CLASS_FOLDER, PICTURES_FOLDER, read_zip, unpack
from trainers.config import TrainConfig, read_toml
from trainers.events import TrainEvent
from trainers.run_folder import ADAPTER_NAME, CHOICES_NAME, CONFIG_NAME, clear

INPUTS = "inputs"
"""Folder, below that of a run made again from a zip, of what was unpacked for it."""


def opened(arguments: argparse.Namespace) -> Bundle | None:
    """Return the bundle that a command line names, or None for an ordinary config.

    A folder, or a zip's unpacked files (in the run's folder), become the path of the bundle.toml in
    `arguments.config`; a run's folder that isn't named is set.

    Raises: ConfigError, one line, for a damaged bundle and for options that mean nothing beside one.
    """
    path: Path | None = arguments.config
    if path is None:
        _check_plain(arguments)
        return None
    packed = path.suffix.lower() == ".zip" and path.is_file()
    if packed:
        bundle = read_zip(path)
    else:
        path = arguments.config = bundle_file(path)
        values = read_toml(path)
        if not is_bundle(values):
            _check_plain(arguments)
            return None
        bundle = parse_bundle(values, path.name)
    for name in ("preset", "size", "memory", "family"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} has no effect with a bundle, which says every setting; leave it out")
    if arguments.output is None:
        arguments.output = default_output(bundle)
    if packed:
        arguments.config = unpack(path, arguments.output / INPUTS)
    elif path.resolve().parent == (arguments.output / BUNDLE).resolve():
        raise ConfigError(
            f"--output {str(arguments.output)!r} is the bundle's own run; choose another folder"
        )
    return bundle


def _check_plain(arguments: argparse.Namespace) -> None:
    """Refuse what only means something for a bundle."""
    if arguments.anyway:
        raise ConfigError("--anyway has no effect without a bundle; leave it out")


def values_of(bundle: Bundle, path: Path) -> dict[str, Any]:
    """Return a bundle's config as the plain values of a file, with the folders that are found by themselves.

    path: of the bundle.toml. Pictures lie beside it, or where the run had them, which its own config.json
    says where the bundle is still in the run's folder. What isn't found is left for the command line to say.
    """
    values: dict[str, Any] = {"data": {}, "run": {}}
    for section, table in bundle.config.items():
        # Where things lie is never the bundle's to say: it may come from anywhere.
        values[section] = {name: value for name, value in table.items() if (section, name) not in MOVED}
    before = _before(path)
    pictures = (path.parent / PICTURES_FOLDER, before.get("data", {}).get("instance_images"))
    values["data"]["instance_images"] = _found(pictures) or str(path.parent / PICTURES_FOLDER)
    if bundle.data.class_pictures:
        given = (path.parent / CLASS_FOLDER, before.get("data", {}).get("class_images"))
        values["data"]["class_images"] = _found(given) or str(path.parent / CLASS_FOLDER)
    if cache := _found([path.parent / CACHE_FOLDER, before.get("run", {}).get("cache")]):
        values["run"]["cache"] = cache
    for place in bundle.local:
        section, _, name = place.partition(".")
        if found := _found([before.get(section, {}).get(name)]):
            values.setdefault(section, {})[name] = found
    return values


def _before(path: Path) -> dict[str, dict[str, Any]]:
    """The run's own config.json, where the bundle is still in the run's folder."""
    try:
        said = json.loads((path.resolve().parent.parent / CONFIG_NAME).read_text(encoding="utf-8"))
        return {section: table for section, table in said.items() if isinstance(table, dict)}
    except (OSError, ValueError, AttributeError):
        return {}


def _found(places: Iterable[Any]) -> str | None:
    """The first of some places that is there, as a whole path."""
    for place in places:
        try:
            if place and Path(place).exists():
                return str(Path(place).absolute())
        except (OSError, TypeError, ValueError):
            continue
    return None


def default_output(bundle: Bundle) -> Path:
    """The folder of a run made again, where none is named; names hold what no folder's does."""
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in bundle.name)
    return Path("runs") / f"{name}-again"


@dataclass(frozen=True, kw_only=True)
class Again:
    """A run that is made again. config: the bundle's, with the folders of here. anyway: whatever differs."""

    bundle: Bundle
    config: TrainConfig
    anyway: bool = False

    def check(self, processes: int = 1) -> list[str]:
        """Hold what is here against the bundle; return a line for each thing that differs.

        Threads are set as the bundle has them first, unless the config says otherwise, or a trial chose them
        out of as many as the machine gives. processes: that will share the run.

        Raises: ConfigError with the lines where the same file can't come out.
        """
        from pipelines.bases.libraries import load_libraries

        load_libraries()
        import torch

        if self.config.run.threads is None and self.bundle.chosen_threads is None:
            torch.set_num_threads(self.bundle.environment.threads)
        return self._refused(differences.before(self.bundle, self.config, processes))

    def ready(self, fresh: bool) -> bool:
        """Put what was chosen for the machine into the run's folder, so that nothing is chosen anew.

        fresh: begin anew, whatever a run has left there. Returns: whether the run still has to begin anew.
        """
        folder = self.config.run.output
        if not self.bundle.choices:
            return fresh
        if fresh:
            clear(folder)
        if not (folder / CHOICES_NAME).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / CHOICES_NAME, [self.bundle.choices.encode()])
        return False

    def held(self, training: Generator[TrainEvent, None, None]) -> Generator[TrainEvent, None, None]:
        """Yield a run's events; hold against the bundle what it has made before its first step, and its file.

        Raises: ConfigError before the first step where captions or class pictures came out otherwise;
        StudioError after the last event where the adapter is another. Neither with `anyway`: warnings then.
        """
        with closing(training):
            for event in training:
                stage = event.data.get("stage") if event.kind == "stage" else event.kind
                if stage == "inject":
                    yield from (_warning(event, line) for line in self._made())
                elif stage == "done":
                    yield from self._ended(event)
                    continue
                yield event

    def _made(self) -> list[str]:
        """What was made for the run, and isn't what the bundle's was."""
        found = differences.drawn(self.bundle, self.config)
        found += differences.data(self.bundle, self.config) if self.config.data.captioner else []
        return self._refused(found)

    def _ended(self, done: TrainEvent) -> Iterator[TrainEvent]:
        """Say before the last event whether it is the same file."""
        same, said = outcome(self.bundle, self.config.run.output)
        if same:
            told = {"stage": "again", "same": same}
            yield TrainEvent(kind="stage", step=done.step, total=done.total, message=said, data=told)
        elif self.anyway:
            yield _warning(done, said)
        yield done
        if not same and not self.anyway:
            raise StudioError(said)

    def _refused(self, found: Sequence[Difference]) -> list[str]:
        """The differences as lines. Raises: ConfigError with them where the same file can't come out."""
        fatal, lines = [one for one in found if one.fatal], differences.told(found)
        if self.anyway or not fatal:
            return lines
        if len(lines) == 1:
            raise ConfigError(f"{fatal[0].words} (--anyway: make another file)")
        things = "1 thing is" if len(fatal) == 1 else f"{len(fatal)} things are"
        first = (
            f"{things} missing or other than in the bundle; mend that, or say --anyway to make another file"
        )
        raise ConfigError("\n  ".join([first, *lines]))


def _warning(event: TrainEvent, message: str) -> TrainEvent:
    return TrainEvent(kind="warning", step=event.step, total=event.total, message=message)


def outcome(bundle: Bundle, folder: Path) -> tuple[bool, str]:
    """Compare a run's adapter with the bundle's: whether the numbers are the same, and a line for people."""
    from pipelines.formats.container import data_sha256, read_header

    path, was = folder / ADAPTER_NAME, bundle.made
    if (sha256 := file_sha256(path)) == was.sha256:
        return True, f"the same file as the bundle's, bit for bit (SHA-256 {sha256[:12]}…)"
    if data_sha256(path, read_header(path).data_start) == was.tensors_sha256:
        return True, "the same numbers as the bundle's, bit for bit; the file's metadata are others"
    try:
        found = differences.after(bundle, read_bundle(folder))
    except ConfigError:
        found = []
    why = "; ".join(one.words for one in found[: differences.MOST])
    unknown = (
        "nothing that is known of it differs: try it once more with --set run.cache= and an empty folder"
    )
    return False, f"another file than the bundle's came out (SHA-256 {sha256[:12]}…): {why or unknown}"
