"""What Mix takes of a picture: settings, adapters found in the library, and what is said of the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.generation import AdapterUse, PictureUse
from pipelines.parameters import AdapterHint, BaseHint, Restored
from studio.gallery import Gallery
from studio.library import Library
from studio.restoring import NOTES, taken, taken_again
from studio.workspace import Workspace
from tests.studio.test_gallery import drawn

NOTHING = Restored({"prompt": "x"}, BaseHint(), (), {}, "a1111")


@pytest.fixture
def known(workspace: Workspace) -> tuple[str, str, str]:
    """(id, name, SHA-256) of an adapter in the library."""
    Library(workspace).add_examples()
    entry = Library(workspace).entries()[0]
    return entry.id, entry.name, entry.sha256


def test_a_picture_of_ours_comes_back_whole(workspace: Workspace, known: tuple[str, str, str]) -> None:
    use = AdapterUse(
        name="renamed since", sha256=known[2], weight=-1.5, text_weight=0.25, blocks={"mid_block": 0.5},
        begin=0.1, end=0.6,
    )  # fmt: skip
    picture = drawn("a fox", 9, sampler="euler", hires_scale=2, adapters=(use,))
    found = taken_again(
        workspace, Gallery(workspace).get(Gallery(workspace).add(picture)), base="some/pocket"
    )
    told = picture.settings["generation"]
    assert found.generation == {name: told[name] for name in found.generation}
    assert {"prompt", "seed", "sampler", "hires_scale", "width", "num_inference_steps"} <= set(
        found.generation
    )
    assert not {"adapters", "image", "num_images"} & set(found.generation)
    [part] = found.mix
    assert (part.id, part.weight, part.text, dict(part.blocks)) == (known[0], -1.5, 0.25, {"mid_block": 0.5})
    assert (part.begin, part.end, part.on) == (0.1, 0.6, True)
    assert found.notes == ()
    wish = found.wish()
    assert wish["adapters"][0]["id"] == known[0] and wish["image"] == ""


def test_adapters_by_hash_then_by_name(workspace: Workspace, known: tuple[str, str, str]) -> None:
    def ids(*hints: AdapterHint) -> list[str]:
        return [part.id for part in taken(workspace, replace(NOTHING, adapters=hints)).mix]

    assert ids(AdapterHint("other", known[2][:10].upper())) == [known[0]]
    assert ids(AdapterHint(known[1].upper(), "0" * 10)) == [known[0]]
    assert ids(AdapterHint("other", known[2][:4])) == []
    assert ids(AdapterHint("other", "%" * 10)) == []
    assert ids(AdapterHint(known[1]), AdapterHint("other", known[2])) == [known[0]]


def test_weights_out_of_bounds_are_bounded(workspace: Workspace, known: tuple[str, str, str]) -> None:
    [part] = taken(workspace, replace(NOTHING, adapters=(AdapterHint(known[1], None, 9.0, -9.0),))).mix
    assert (part.weight, part.text) == (3.0, -2.0)


def test_notes_say_what_is_left(workspace: Workspace) -> None:
    restored = replace(
        NOTHING, base=BaseHint("dreamy"), adapters=(AdapterHint("Nemo", None),), left_over={"Clip skip": "x"}
    )
    notes = taken(workspace, restored, base="pocket").notes
    assert [word in note for word, note in zip(("dreamy", "Nemo", "Clip skip"), notes, strict=True)] == [
        True
    ] * 3
    assert taken(workspace, replace(NOTHING, base=BaseHint("POCKET")), base="pocket").notes == ()
    many = replace(NOTHING, left_over={f"key {n}": "x" for n in range(40)})
    assert len(taken(workspace, many).notes) == NOTES and "29 more" in taken(workspace, many).notes[-1]


def test_what_it_was_drawn_over_comes_from_its_job(workspace: Workspace) -> None:
    over = PictureUse(sha256="0" * 64)
    restored = replace(NOTHING, fields={"prompt": "x", "image": over, "mask": over})
    alone = taken(workspace, restored)
    assert alone.image == "" and len(alone.notes) == 2
    known = taken(workspace, restored, request={"image": "image/1-a", "mask": "picture/0"})
    assert known.wish()["image"] == "image/1-a"
    assert len(known.notes) == 1 and "mask" in known.notes[0]


def test_what_a_hostile_file_says_of_blocks_is_cut_to_what_a_mix_takes(
    workspace: Workspace, known: tuple[str, str, str]
) -> None:
    blocks = {"mid_block": float("nan"), "conv_in": float("inf"), **{f"b{n}": 0.5 for n in range(200)}}
    use = AdapterUse(name=known[1], sha256=known[2], weight=1, blocks=blocks)
    found = taken(workspace, replace(NOTHING, fields={"prompt": "x", "adapters": (use,)}))
    [part] = found.mix
    assert set(part.blocks.values()) == {0.5} and len(part.blocks) == 62
