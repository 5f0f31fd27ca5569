"""What to try an example set with: prompts and pictures that it wasn't taught from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError, PictureError, nearest
from studio.examples import EXAMPLES, ExampleSet, example_sets


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An example set and what to try it with.

    held_out: for a subject, pictures that are only measured against.
    scenes: for a subject, endings of a prompt that no training picture shows ("in the snow").
    unseen: for a style, things that no training picture shows ("a crown on a red background").
    """

    example: ExampleSet
    held_out: tuple[Path, ...]
    scenes: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name of the set, of its adapter and of its run folder."""
        return self.example.id


def choose(kind: str, name: str, folder: Path = EXAMPLES) -> Trial:
    """The example set of a kind and a name.

    Raises:
        ConfigError: there is no such set. PictureError: the set isn't whole.
    """
    found = {example.id: example for example in example_sets(folder) if example.kind == kind}
    if name not in found:
        raise ConfigError(f"there is no example {kind} {name!r}{nearest(name, found)}")
    rows = json.loads((folder / "examples.json").read_text(encoding="utf-8"))["sets"]
    row = next(row for row in rows if row["id"] == name)
    held_out = tuple(folder / name / picture for picture in row.get("held_out", ()))
    if len(found[name].pictures) < len(row["pictures"]) or not all(path.is_file() for path in held_out):
        raise PictureError(f"pictures of the example {name!r} are missing; install Pigment again")
    return Trial(
        example=found[name],
        held_out=held_out,
        scenes=tuple(row.get("scenes", ())),
        unseen=tuple(row.get("unseen", ())),
    )


def columns(subject: Trial, style: Trial) -> list[tuple[str, str, str]]:
    """(label, thing without a trigger, thing with the subject's) of the grid's columns.

    First the subject in new scenes, then things that are new to the style and no matter of the subject's.
    """
    plain, called = (
        prompt.removeprefix("a photo of ")
        for prompt in (subject.example.class_prompt, subject.example.instance_prompt)
    )
    shown = [(f"{subject.example.trigger} {s}", f"{plain} {s}", f"{called} {s}") for s in subject.scenes]
    return shown + [(thing, thing, thing) for thing in style.unseen]


def prompts(subject: Trial, style: Trial, weights: tuple[float, float]) -> list[str]:
    """The prompt of every column in a row: it names what an adapter brings where that adapter takes part."""
    with_subject, with_style = weights[0] != 0, weights[1] != 0
    things = [called if with_subject else plain for _, plain, called in columns(subject, style)]
    if with_style:
        return [f"{thing} in {style.example.trigger} style" for thing in things]
    return [f"a photo of {thing}" for thing in things]
