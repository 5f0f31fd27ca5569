"""New adapters out of those in the library: each joins it, with its report; mistakes are said before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.errors import AdapterError, ConfigError
from pipelines.formats import read_adapter
from studio import reworking
from studio.context import Context
from studio.covers import set_cover
from studio.entries import Entry
from studio.work import KINDS
from studio.work import reworking as work

MakeAdapter = Callable[..., Path]
REQUESTS = {
    "resize": reworking.ResizeRequest,
    "convert": reworking.ConvertRequest,
    "merge": reworking.MergeRequest,
}


@pytest.fixture
def pair(context: Context, make_adapter: MakeAdapter, tmp_path: Path) -> list[Entry]:
    found = []
    for seed, name in enumerate(("one", "two")):
        path = make_adapter(tmp_path / f"{name}.safetensors", seed=seed, name=name)
        found.append(context.library.add(path)[0])
        context.library.tag(found[-1].id, ["both", name])
    return found


def made(context: Context, kind: str, **asked: Any) -> tuple[Entry, dict[str, Any]]:
    """Do what such a job does, in this process: the new adapter and the job's result."""
    job = reworking.start(context, kind, REQUESTS[kind](**asked))
    state, result = KINDS[kind].work()(context.workspace, job, threading.Event())
    assert state == "done"
    return context.library.get(result["adapter"]), result


def test_resized_it_has_fewer_ranks_and_the_first_one_stays(
    context: Context, pair: list[Entry], pictures: list[Path]
) -> None:
    set_cover(context.library, pair[0].id, pictures[0])
    entry, result = made(context, "resize", adapter=pair[0].id, rank=2)
    assert entry.rank == 2 and entry.origin == "made" and entry.name == "one rank 2"
    assert entry.tags == ("both", "one") and (entry.cover or "").startswith(f"cover/{entry.id}/")
    assert "error against" in result["text"] and context.library.get(pair[0].id).rank != 2
    with pytest.raises(ConfigError, match="how small"):
        reworking.start(context, "resize", reworking.ResizeRequest(adapter=pair[0].id))


def test_merged_it_is_the_sum_at_these_weights(context: Context, pair: list[Entry]) -> None:
    parts: Any = [{"id": pair[0].id, "weight": 0.5}, {"id": pair[1].id, "weight": -1, "text": 0.25}]
    entry, _ = made(context, "merge", parts=parts, dtype="fp32", name="sum")
    one, two, whole = (read_adapter(path) for path in (pair[0].path, pair[1].path, entry.path))
    for module in whole.factors:
        text = 0.25 if module.startswith("text") else -1.0
        sums = 0.5 * one.factors[module].delta() + text * two.factors[module].delta()
        assert torch.allclose(whole.factors[module].delta(), sums, atol=1e-5)
    assert entry.name == "sum" and entry.tags == ("both",)
    with pytest.raises(ConfigError, match="takes no density"):
        request = reworking.MergeRequest(parts=parts, density=0.5)
        reworking.start(context, "merge", request)
    with pytest.raises(ConfigError, match="ties"):
        reworking.start(context, "merge", reworking.MergeRequest(parts=parts, method="tie"))


def test_converted_it_has_another_form(context: Context, pair: list[Entry]) -> None:
    entry, _ = made(context, "convert", adapter=pair[0].id, format="diffusers", dtype="bf16")
    assert (entry.info["format"], entry.info["dtype"]) == ("diffusers", "BF16")
    with pytest.raises(AdapterError, match="isn't one file"):
        reworking.start(context, "convert", reworking.ConvertRequest(adapter=pair[0].id, format="peft"))
    with pytest.raises(AdapterError, match="can't hold"):
        reworking.start(context, "convert", reworking.ConvertRequest(adapter=pair[0].id, format="embedding"))


def test_stopped_it_leaves_nothing(context: Context, pair: list[Entry]) -> None:
    job = reworking.start(context, "resize", reworking.ResizeRequest(adapter=pair[0].id, rank=2))
    stop = threading.Event()
    stop.set()
    state, _ = work.resize(context.workspace, job, stop)
    assert state != "done" and len(context.library.entries()) == 2
