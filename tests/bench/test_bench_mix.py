"""`pigment bench mix` runs whole with tiny numbers; nothing here asserts a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.mixer import Mixer
from trainers.bench import mix, records
from trainers.bench.measuring import held_bytes, median, percentile, shares
from trainers.bench.models import adapters, random_base, targets

TINY = [
    "--moves",
    "6",
    "--rounds",
    "4",
    "--pictures",
    "2",
    "--steps",
    "2",
    "--adapters",
    "2",
    "--rank",
    "2",
    "--baseline-moves",
    "3",
]
FIELDS = ("blend_ms_p50", "blend_ms_p95", "blend_ratio_vs_diffusers", "generate_ratio_k4", "peak_bytes")


def test_it_measures_a_folder_and_records_beside_other_models(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "bench" / "results" / "mix.json"
    (tmp_path / "bench").mkdir()
    monkeypatch.setattr(mix, "RECORD", record)
    out = tmp_path / "mix.json"
    given = ["--model", str(tiny_folder), "--device", "cpu", *TINY]
    assert mix.main([*given, "--out", str(out), "--record", "--json"]) == 0
    report = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == report
    figures = report["models"][tiny_folder.name]
    assert all(figures[name] > 0 for name in FIELDS)
    assert figures["layers"] == 48
    assert (figures["moves"], figures["diffusers_moves"], figures["pictures"]) == (6, 3, 2)
    assert figures["grown_bytes"] == 0
    assert figures["peak_bytes"] == figures["kept_bytes"] + figures["factor_bytes"]
    # Both hold what they were last told, ours at least as exactly.
    assert 0 < figures["error"] < 1e-5
    assert figures["error"] <= figures["diffusers_error"] < 1e-3
    assert {"date", "machine", "versions", "command"} < set(report)
    assert str(tiny_folder.parent) not in json.dumps(report)

    kept = json.loads(record.read_text())
    kept["models"]["elsewhere"] = {"blend_ms_p50": 1.0, "machine": "another"}
    record.write_text(json.dumps(kept))
    records.record(report, record)
    again = json.loads(record.read_text())["models"]
    assert again["elsewhere"] == kept["models"]["elsewhere"]
    assert again[tiny_folder.name]["command"] == report["command"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--moves", "0"], "--moves is 0; give at least 1"),
        (["--model", "sdxl", "--device", "cpu"], "needs a CUDA device; add --small"),
        (["--model", "nowhere"], "no such folder"),
    ],
)
def test_refusals_are_one_line(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mix.main(argv) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_small_random_models_have_the_published_layers(family: str) -> None:
    base = random_base(family, small=True, device="cpu")
    # The counts of the full-size UNets' attention and feed-forward, as linear layers.
    unet = [name for name in targets(base) if name.startswith("unet.")]
    assert len(unet) == {"sd15": 160, "sdxl": 722}[family]
    assert base.tokenizer("a photo of a cat", add_special_tokens=False).input_ids[:2] == [320, 1125]
    hidden = base.condition(["a fox", "b"]).hidden
    assert hidden.shape == (2, 77, base.unet.config["cross_attention_dim"])
    assert torch.isfinite(hidden).all()
    for adapter in adapters(base, unet, 1, 2).values():
        adapter.check(base)


class _Operators(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_four_fused_adapters_add_no_operator_at_the_published_depth(family: str) -> None:
    base = random_base(family, small=True, device="cpu")
    made = adapters(base, targets(base), 4, 1)
    shape = (1, 4, base.unet.config["sample_size"], base.unet.config["sample_size"])
    said = base.condition(["a fox"]).arguments((64, 64))

    def operators() -> int:
        with torch.no_grad(), _Operators() as mode:
            base.unet(torch.zeros(shape), 10, **said)
        return mode.count

    none = operators()
    with Mixer(base) as mixer:
        for name, adapter in made.items():
            mixer.add(name, adapter)
        mixer.set(dict.fromkeys(made, 0.5))
        assert operators() == none > 1000


def test_the_arithmetic() -> None:
    assert [percentile(range(1, 101), percent) for percent in (50, 95, 100, 0)] == [50, 95, 100, 1]
    assert median([3, 1, 2]) == 2
    assert shares(7, 3) == [3, 2, 2]
    assert shares(2, 3) == [1, 1, 0]
    before = held_bytes(torch.device("cpu"))
    kept = torch.zeros(1000)
    assert held_bytes(torch.device("cpu")) - before == kept.nbytes
