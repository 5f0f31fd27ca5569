"""What differs between a bundle and what is here now, a line each, before a run is made again and after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.errors import StudioError
from pipelines.files import file_sha256
from trainers.bundle_format import Bundle, Kept, Taught
from trainers.bundle_places import HASHED, MOVED, local_places, place_sha256, plain_config
from trainers.config import TrainConfig, validate

if TYPE_CHECKING:
    from trainers.dataset import Item

T = TypeVar("T")

MOST = 12
"""Lines about things of one kind; of more it is said how many there are."""
METADATA_ONLY = {"run.name", "run.listeners", "run.keep_checkpoints", "run.checkpoint_every"}
"""Settings that the numbers don't depend on; they stand in the file's metadata all the same."""
_ELSEWHERE = {"run.device", "run.threads", "run.base", "run.vae", *(f"{a}.{b}" for a, b in MOVED)}
"""Settings that are compared by what they come to."""


@dataclass(frozen=True)
class Difference:
    """One thing that is missing or other than it was.

    words: one line. fatal: whether the same file can't come out; otherwise it may.
    """

    words: str
    fatal: bool = True


def before(bundle: Bundle, config: TrainConfig, processes: int = 1) -> list[Difference]:
    """Compare what a run would take now with what the bundle's took; nothing is written.

    config: with the folders of here. processes: that will share the run. Class pictures that the base hasn't
    drawn yet are compared by `drawn`, once they are there.
    """
    found = [*settings(bundle, config), *base(bundle, config), *files(bundle, config)]
    found += data(bundle, config)
    found += drawn(bundle, config, waiting=True)
    return [*found, *environment(bundle, config, processes)]


def settings(bundle: Bundle, config: TrainConfig) -> Iterator[Difference]:
    """Settings that aren't the bundle's."""
    stated = {section: dict(table) for section, table in bundle.config.items()}
    for section, name in MOVED:
        if name != "class_images" or bundle.data.class_pictures:
            stated.setdefault(section, {})[name] = name  # any folder: none of them counts
    was = plain_config(validate(stated))
    now = plain_config(config)
    for section in now:
        for name in sorted({*now[section], *was[section]}):
            place, one, other = f"{section}.{name}", was[section].get(name), now[section].get(name)
            if one == other or place in _ELSEWHERE or place in bundle.local:
                continue
            harmless = place in METADATA_ONLY
            what = "the numbers stay, the file's metadata don't" if harmless else "another file comes of it"
            yield Difference(
                f"{place}: the bundle has {_said(one)}, now {_said(other)}; {what}", not harmless
            )


def base(bundle: Bundle, config: TrainConfig) -> Iterator[Difference]:
    """The base and its VAE, by content."""
    was, run = bundle.base, config.run
    lost = [name for name in ("base", "vae", "configs") if _lost(bundle, config, "run", name)]
    for name in lost:
        option = "--base" if name == "base" else f"--set run.{name}="
        stated = {"base": was.sha256, "vae": was.vae_sha256}.get(name) or bundle.files.get(f"run.{name}", "")
        called = str(getattr(run, name))
        yield Difference(
            f"{name} {called!r} (SHA-256 {stated[:12]}…) isn't here; say where it is with {option}"
        )
    if lost:
        return
    from trainers.known import source_sha256
    from trainers.prior import cache_folder

    try:
        source, sha256 = source_sha256(run, cache_folder(run.cache))
    except StudioError as error:
        yield Difference(str(error))
        return
    if sha256 != was.sha256:
        yield Difference(
            f"base {Path(run.base).name!r} is another: SHA-256 {sha256[:12]}…, was {was.sha256[:12]}…"
        )
    if source.vae_sha256 != was.vae_sha256:
        names = [text[:12] + "…" if text else "the base's" for text in (source.vae_sha256, was.vae_sha256)]
        yield Difference(f"VAE is another: SHA-256 {names[0]}, was {names[1]}")
    if (name := plain_config(config)["run"]["base"]) != was.name and sha256 == was.sha256:
        yield Difference(
            f"base is called {name!r}, and was {was.name!r}: the numbers stay, the file's metadata don't",
            False,
        )


def _lost(bundle: Bundle, config: TrainConfig, section: str, name: str) -> bool:
    """Whether a file or folder of the bundle's machine isn't found on this one."""
    place = f"{section}.{name}"
    said = str(getattr(getattr(config, section), name))
    return (
        place in bundle.local and place not in local_places(config) and said == bundle.config[section][name]
    )


def files(bundle: Bundle, config: TrainConfig) -> Iterator[Difference]:
    """Other files and folders that settings name."""
    for place, was in bundle.files.items():
        section, _, name = place.partition(".")
        if (section, name) not in HASHED:
            continue
        path = Path(str(getattr(getattr(config, section), name))).expanduser()
        if not _lost(bundle, config, section, name):
            if not path.exists() or place_sha256(path, HASHED[section, name]) != was:
                yield Difference(f"{place}: {path.name!r} is another than the bundle's")
        elif section != "run":  # those are said with the base
            yield Difference(f"{place} {path.name!r} isn't here; say where it is with --set {place}=")


def data(bundle: Bundle, config: TrainConfig) -> list[Difference]:
    """Pictures, captions and masks, and the class pictures that a person gave.

    What a captioner is still to write isn't missing.
    """
    from trainers.dataset import load_dataset
    from trainers.prior import cache_folder, joined_sha256, read_class_pictures

    asked = config.data
    if not asked.instance_images.is_dir():
        count = len(bundle.data.pictures)
        said = f"none of the bundle's pictures ({count}) is here; say where they are with --pictures DIR"
        return [Difference(said)]
    try:
        dataset, given = load_dataset(asked, cache_folder(config.run.cache)), read_class_pictures(asked)
    except StudioError as error:
        return [Difference(str(error))]
    held = {item.name for item in dataset.held_out}
    items = [*dataset.learn, *dataset.held_out]
    found = list(_pictures("picture", bundle.data.pictures, items, held, bool(asked.captioner)))
    found += _pictures("class picture", bundle.data.class_pictures, given, set(), False)
    waits = asked.captioner and not all(item.own for item in items)
    if not found and not waits and joined_sha256(dataset.sha256, given) != bundle.data.sha256:
        found = [Difference("the pictures as a whole are others: their order, or what lies behind them")]
    return found


def _pictures(
    kind: str, was: Sequence[Taught], now: Sequence[Item], held: set[str], captioner: bool
) -> Iterator[Difference]:
    """Compare pictures by name, with all that is said of each."""
    from trainers.bundle import readable, taught

    here = {readable(item.name): item for item in now}
    by_content = {item.source.sha256: name for name, item in here.items()}
    told = {one.name: one for one in was}
    missing = [one for one in was if one.name not in here]
    yield from _few(kind, missing, lambda one: _missing(kind, one, by_content, told))
    moved = {by_content.get(one.sha256) for one in missing}
    extra = [name for name in here if name not in told and name not in moved]
    yield from _few(kind, extra, lambda name: f"{kind} {name!r} isn't one of the bundle's; take it away")
    changed = []
    for one in was:
        item = here.get(one.name)
        if item is None:
            continue
        other = taught(item, item.name in held)
        names = [name for name in WORDS if getattr(one, name) != getattr(other, name)]
        if captioner and not item.own:
            names = [name for name in names if name != "caption"]
        if missing or extra:  # which moves what is held out
            names = [name for name in names if name != "held_out"]
        if names:
            changed.append((one.name, [WORDS[name].format(item=item, now=other, was=one) for name in names]))
    yield from _few(kind, changed, lambda one: f"{kind} {one[0]!r}: {', '.join(one[1])}")


WORDS = {
    "sha256": "another content (SHA-256 {now.sha256:.12}…, was {was.sha256:.12}…)",
    "caption": "another caption, now “{item.caption:.80}”",
    "repeats": "comes {now.repeats} times a round, was {was.repeats}",
    "mask": "another mask",
    "held_out": "held out: {now.held_out}, was {was.held_out}",
}
"""What can differ about a picture, and how it is said."""


def _missing(kind: str, one: Taught, by_content: Mapping[str, str], told: Mapping[str, Taught]) -> str:
    name = by_content.get(one.sha256)
    if name is not None and name not in told:
        return f"{kind} {one.name!r} is called {name!r} here; call it so again, since names order pictures"
    return f"{kind} {one.name!r} (SHA-256 {one.sha256[:12]}…) is missing"


def _few(kind: str, found: Sequence[T], say: Callable[[T], str]) -> Iterator[Difference]:
    """A line for each of the first ones, and one for the rest."""
    yield from (Difference(say(one)) for one in found[:MOST])
    if len(found) > MOST:
        yield Difference(f"… and {len(found) - MOST} {kind}s more like these")


def drawn(bundle: Bundle, config: TrainConfig, *, waiting: bool = False) -> list[Difference]:
    """Compare the class pictures that the base has drawn, in the cache folder.

    waiting: those that aren't there, or aren't as they were drawn, are still to be drawn.
    """
    from trainers.prior import CLASS_PICTURES, cache_folder, sealed

    folder = cache_folder(config.run.cache) / CLASS_PICTURES
    found: list[tuple[Kept, str | None]] = []
    for one in bundle.data.drawn:
        path = folder / one.name
        now = sealed(path) or one.sha256 if waiting else file_sha256(path) if path.is_file() else None
        found += [(one, now)] if now != one.sha256 else []

    def say(one: tuple[Kept, str | None]) -> str:
        kept, now = one
        how = "was drawn under another name" if now is None else f"came out otherwise (SHA-256 {now[:12]}…)"
        return f"class picture {kept.name!r} {how}; take it from a bundle with pictures, or --anyway"

    return list(_few("class picture", found, say))


def environment(bundle: Bundle, config: TrainConfig, processes: int = 1) -> Iterator[Difference]:
    """Compare versions, machine, device and threads, as far as they can be told before a run."""
    import torch

    from pipelines.device import choose_device
    from trainers.bundle import device_of, library_versions, this_machine

    was = bundle.environment
    chosen = choose_device(config.run.device, config.run.precision)
    here = {"precision": chosen.as_data()["precision"], **device_of(chosen.device)}
    yield from _changed("", was.versions, library_versions(), only=True)
    yield from _changed("machine: ", was.machine, this_machine())
    yield from _changed("device: ", {name: was.device.get(name) for name in here}, here)
    threads = config.run.threads or bundle.chosen_threads or torch.get_num_threads()
    counts = {"threads": threads, "processes": processes}
    yield from _changed("", {"threads": was.threads, "processes": was.processes}, counts)


def after(bundle: Bundle, made: Bundle) -> list[Difference]:
    """Compare what two runs took, by what both have written: what can only be told once a run has ended."""
    one, other = bundle.environment, made.environment
    found = [
        *_changed("", one.versions, other.versions, only=True),
        *_changed("machine: ", one.machine, other.machine),
    ]
    found += _changed("device: ", one.device, other.device)
    found += _changed("", {"threads": one.threads, "processes": one.processes},
                      {"threads": other.threads, "processes": other.processes})  # fmt: skip
    if bundle.made.step != made.made.step:
        steps = f"of step {made.made.step}, the bundle's of step {bundle.made.step}"
        found.append(Difference(f"the adapter is {steps}", False))
    if bundle.data.sha256 != made.data.sha256 or bundle.data.drawn != made.data.drawn:
        found.append(Difference("pictures or class pictures are others", False))
    for at in sorted({*bundle.made.resumed} - {*made.made.resumed}):
        found.append(
            Difference(f"the bundle's run was interrupted at step {at}, perhaps in between changed", False)
        )
    return found


def _changed(
    what: str, was: Mapping[str, Any], now: Mapping[str, Any], only: bool = False
) -> Iterator[Difference]:
    """What two tables say otherwise. It may change the last bits; often it doesn't.

    only: of what the first names; a later Pigment may name more.
    """
    for name in was if only else dict.fromkeys((*was, *now)):
        one, other = was.get(name), now.get(name)
        if _plain(one) != _plain(other):
            yield Difference(f"{what}{name} is {_said(other)}, the bundle's {_said(one)}", False)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _said(value: Any) -> str:
    """A value in a line: short, and nothing that a terminal would act on."""
    text = "nothing" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return "".join(char if char.isprintable() else " " for char in text[:80])


def told(found: Iterable[Difference]) -> list[str]:
    """The differences as lines, those that matter most first."""
    ordered = sorted(found, key=lambda one: not one.fatal)
    return [f"{'differs' if one.fatal else 'warning'}: {one.words}" for one in ordered]
