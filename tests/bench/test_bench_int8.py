"""The measurement of layers of 8 bits: which layers it counts, and what it makes of times."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.bench import int8 as bench
from trainers.presets import COSTS


def test_it_counts_every_layer_that_is_rounded_with_its_inputs() -> None:
    found = bench.shapes("sd15", small=True)
    text = sum(2 * 768 * width * count for width, count in ((320, 5), (640, 5), (1280, 6)))
    weights = sum(inputs * outputs * count for (_, inputs, outputs), count in found.items())
    assert weights * 8**2 == COSTS["sd15"].quantisable - text  # an eighth as wide
    assert {tokens for tokens, _, _ in found} == {8**2, 4**2, 2**2, 1}


def test_times_are_summed_over_layers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    layers = Counter({(8, 16, 24): 2, (20, 24, 16): 3})
    monkeypatch.setattr(bench, "shapes", lambda family, small: layers)
    monkeypatch.setattr(bench, "RESULT", tmp_path / "int8.json")
    options = "--small --device cpu --dtype fp32 --rounds 2 --times 1 --record"
    bench.main(["--model", "sd15", *options.split()])
    figures = json.loads((tmp_path / "int8.json").read_text())
    assert '"ratio_spread"' in capsys.readouterr().out and figures["taken"] == "floats"
    found: dict[str, Any] = figures["models"]["sd15"]
    assert found["layers"] == 5 and {"plain", "floats", "whole"} <= set(found["ms"])
    low, high = found["floats"]["ratio_spread"]
    assert 0 < low <= found["floats"]["ratio"] <= high

    times = {(8, 16, 24): {"plain": [2.0, 4.0], "floats": [1.0, 1.0]},
             (20, 24, 16): {"plain": [10.0, 20.0], "floats": [6.0, 2.0]}}  # fmt: skip
    monkeypatch.setattr(bench, "compare", lambda shape, *_: times[shape])
    bench.main(["--model", "sd15", "--device", "cpu", "--rounds", "2"])
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{\n") :])["models"]["sd15"]
    assert found["ms"] == {"plain": 51.0, "floats": 14.0}  # 2 · 3 + 3 · 15, 2 · 1 + 3 · 4
    assert found["floats"] == {"ratio": 5.1, "ratio_spread": [1.7, 8.5]}  # 34 / 20, 68 / 8
