"""Weights of equal effect, sizes and agreement, and the blocks that adapters reach."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import AdapterError, ConfigError
from studio.context import Context
from studio.maker import Maker


@pytest.fixture
def ids(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> list[str]:
    """Two adapters in the library."""
    paths = [make_adapter(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2)]
    return [context.library.add(path, name=f"Disc {path.stem}")[0].id for path in paths]


@pytest.fixture
def maker(context: Context) -> Iterator[Maker]:
    """The verbs, in this process."""
    found = Maker(context.workspace)
    yield found
    found.held.close()


@pytest.mark.parametrize("measure", ["norm", "effect"])
def test_balanced_weights_keep_sign_and_level(
    maker: Maker, ids: list[str], tiny_folder: Path, measure: str
) -> None:
    mix = [{"id": ids[0], "weight": 0.8}, {"id": ids[1], "weight": -0.4}]
    weights = maker.balance(mix, str(tiny_folder), measure)["weights"]
    assert list(weights) == ids
    assert weights[ids[0]] > 0 > weights[ids[1]]
    assert sum(map(abs, weights.values())) / 2 == pytest.approx(0.6, abs=2e-3)
    with maker.held.lent(str(tiny_folder)) as (mixer, _):
        assert mixer.base.holder is None


def test_nothing_to_balance_is_said(maker: Maker, ids: list[str], tiny_folder: Path) -> None:
    with pytest.raises(AdapterError, match="got 1 adapters to compare"):
        maker.balance([{"id": ids[0]}], str(tiny_folder))
    with pytest.raises(ConfigError, match="unknown measure 'norms'; did you mean 'norm'"):
        maker.balance([{"id": one} for one in ids], str(tiny_folder), "norms")


def said(maker: Maker, ids: list[str], base: Path, *weights: float) -> dict[str, Any]:
    mix = [{"id": one, "weight": weight} for one, weight in zip(ids, weights, strict=True)]
    return maker.interference(mix, str(base))


def test_who_overpowers_whom_in_words_and_as_a_picture(
    maker: Maker, ids: list[str], tiny_folder: Path
) -> None:
    found = said(maker, ids, tiny_folder, 1.0, 1.0)
    assert "overwrites" in found["text"][0]
    assert any(line.startswith("By size none is ahead: “Disc 1”") for line in found["text"])
    assert "“Disc 1” and “Disc 2”" in found["text"][-1]
    head, _, data = found["picture"].partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(data).startswith(b"\x89PNG")
    assert "share of the energy" in found["table"]
    assert found["report"]["weights"] == {"Disc 1": [1.0, 1.0], "Disc 2": [1.0, 1.0]}
    ahead = said(maker, ids, tiny_folder, 0.2, 2.0)["text"]
    assert ahead[0].startswith("“Disc 2” overwrites “Disc 1”")
    assert any(line.startswith("By size “Disc 2” is ahead: 9") for line in ahead)
    assert said(maker, ids, tiny_folder, 0.0, 0.0)["text"] == [
        "At these weights no adapter changes anything."
    ]
    assert (
        "pull the same way" in said(maker, [ids[0], _copy(maker, ids[0])], tiny_folder, 1.0, 1.0)["text"][-1]
    )


def _copy(maker: Maker, adapter_id: str) -> str:
    """The same adapter again, as another of the library."""
    from studio.library import Library
    from studio.workspace import new_id

    library, fresh = Library(maker.workspace), new_id()
    with maker.workspace.write() as db:
        db.execute(
            "INSERT INTO adapters (id, name, file, origin, sha256, info, created) "
            "SELECT ?, 'Twin', file, origin, sha256, info, created FROM adapters WHERE id = ?",
            (fresh, adapter_id),
        )
    assert library.get(fresh).name == "Twin"
    return fresh


def test_blocks_are_named_in_the_models_order(maker: Maker, ids: list[str]) -> None:
    found = maker.blocks(ids[:1])["blocks"][ids[0]]
    assert found[0] == "text_encoder"
    assert found.index("down_blocks.0") < found.index("mid_block") < found.index("up_blocks.1")
    with maker.held._lock:
        assert maker.held._live is None, "no base is needed"


def test_a_base_is_told_without_loading_it(maker: Maker, tiny_folder: Path) -> None:
    found = maker.about(str(tiny_folder))
    assert (found["ref"], found["family"], len(found["sha256"])) == (str(tiny_folder), "sd15", 64)
    assert maker.held._live is None
