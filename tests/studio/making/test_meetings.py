"""Sentences about a mix: measured once, said of any weights; the preview's adapters stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import effects
from pipelines.errors import AdapterError
from studio.context import Context
from studio.maker import Maker


@pytest.fixture
def maker(context: Context) -> Iterator[Maker]:
    found = Maker(context.workspace)
    yield found
    found.held.close()


def test_sentences_follow_the_weights_from_one_measurement(
    context: Context, maker: Maker, make_adapter: Callable[..., Path], tmp_path: Path, tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    paths = [make_adapter(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2)]
    ids = [context.library.add(path, name=f"Disc {path.stem}")[0].id for path in paths]
    base = str(tiny_folder)

    def said(*weights: float) -> dict[str, Any]:
        mix = [{"id": one, "weight": weight} for one, weight in zip(ids, weights, strict=True)]
        return dict(maker.sentences(mix, base)["sentences"][0])

    with maker.held.lent(base) as (mixer, _):
        maker.held.attach(mixer, ids)
        mixer.set({ids[0]: 0.5})
    loud = said(2.0, 0.1)
    assert loud["kind"] == "overwrites" and loud["adapters"] == ids
    assert "“Disc 1” overwrites “Disc 2”" in loud["words"] and set(loud["weights"]) == set(ids)
    with maker.held.lent(base) as (mixer, _):
        assert set(mixer.names) == set(ids) and mixer.weights[ids[0]] == (0.5, 0.5), "the preview's own"
    monkeypatch.setattr(effects, "block_effects", None)  # nothing is measured again
    assert said(0.1, 2.0)["adapters"] == ids[::-1]
    assert said(0.0, 1.0)["words"] == "“Disc 2” acts alone at these weights."
    with pytest.raises(AdapterError, match="got 1 adapters to compare"):
        maker.sentences([{"id": ids[0]}], base)
