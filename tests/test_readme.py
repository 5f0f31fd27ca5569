"""The README's figures are the measured ones, and what it names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.formats import FORMATS
from pipelines.methods import METHODS, TUNINGS
from pipelines.samplers import SAMPLERS
from tests.faults import table as faults_table
from trainers.bench import evidence_table
from trainers.bench.method_table import as_markdown
from trainers.evidence.rules import RULES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUALITY = json.loads((ROOT / "assets/pocket/quality.json").read_text(encoding="utf-8"))
MIX = json.loads((ROOT / "tests/bench/results/mix.json").read_text(encoding="utf-8"))["models"]["pocket"]
CONFORMANCE = json.loads((ROOT / "tests/bench/results/conformance.json").read_text(encoding="utf-8"))[
    "results"
]
INDEX = json.loads((ROOT / "tests/bench/results/index.json").read_text(encoding="utf-8"))
GENERATE = json.loads((ROOT / "tests/bench/results/generate.json").read_text(encoding="utf-8"))["models"]
DRAWN, HALF = GENERATE["pocket"], GENERATE["sd15-bf16"]
TRAIN = json.loads((ROOT / "tests/bench/results/train.json").read_text(encoding="utf-8"))["models"]
TRAINED = TRAIN["pocket-2threads"]["batches"]
COUNTED = json.loads((ROOT / "tests/bench/results/counts.json").read_text(encoding="utf-8"))["models"]
DEMO = json.loads((ROOT / "tests/bench/results/demo.json").read_text(encoding="utf-8"))


EVIDENCE = json.loads((ROOT / "tests/bench/results/evidence.json").read_text(encoding="utf-8"))
FAULTS = json.loads((ROOT / "tests/bench/results/faults.json").read_text(encoding="utf-8"))
STUDIO = json.loads((ROOT / "tests/bench/results/studio.json").read_text(encoding="utf-8"))


def _opened() -> str:
    low, high = STUDIO["seconds_to_interactive_spread"]
    return f" ({low:.1f} to {high:.1f})"


def _slower() -> str:
    low, high = STUDIO["training_slowdown_spread"]
    return f" ({100 * low:.0f} to {100 * high:.0f})"


def _drawn(count: int) -> list[str]:
    found = DRAWN["adapters"][str(count)]
    return [f"{found['seconds']:.2f} s", f"{found['diffusers_seconds']:.2f} s",
            f"{found['ratio_vs_diffusers']:.2f}×"]  # fmt: skip


def _loaded(found: dict[str, Any], digits: int) -> list[str]:
    return [f"{found['load_seconds']:.{digits}f} s", f"{found['load_diffusers_seconds']:.{digits}f} s",
            f"{found['load_ratio']:.1f}× faster"]  # fmt: skip


def _trained(baseline: str, name: str) -> list[str]:
    found = [TRAINED[batch]["baselines"][baseline] for batch in ("1", "4")]
    if name != "ratio":
        return [f"{one[name]:.2f}" for one in found]
    return [
        f"{one[name]:.2f}× ({one['ratio_spread'][0]:.2f} to {one['ratio_spread'][1]:.2f})" for one in found
    ]


def _counted(name: str, way: str = "ratios", unit: str = "") -> list[str]:
    return [f"{COUNTED[model][way][name]:.2f}{unit}" for model in ("sd15 batch 1", "sdxl batch 1")]


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("start of the process to a page", [f"{STUDIO['seconds_to_interactive']:.1f} s" + _opened()]),
        ("of one core at rest", [f"{100 * STUDIO['idle_cpu_share']:.1f}%"]),
        ("a move to its picture, median", [f"{STUDIO['preview_ms_p50']:.0f} ms"]),
        ("a move to its picture, 95th", [f"{STUDIO['preview_ms_p95']:.0f} ms"]),
        ("pictures a second in a drag", [f"{STUDIO['drag_pictures_per_s']:.1f}"]),
        ("50 clients asking", [f"{STUDIO['status_ms_p95_50_clients']:.1f} ms"]),
        ("a training beside them", [f"{100 * STUDIO['training_slowdown']:.0f}%" + _slower()]),
        ("from the first click to an", [f"{STUDIO['minutes_first_adapter']:.1f} min"]),
        ("steps per second, over diffusers' script", _trained("diffusers", "ratio")),
        ("steps per second, over the same", _trained("diffusers-cached-text", "ratio")),
        ("steps per second, over kohya's", _trained("kohya", "ratio")),
        ("start to first step, of diffusers'", _trained("diffusers", "first_step_ratio")),
        ("start to first step, of kohya's", _trained("kohya", "first_step_ratio")),
        ("memory of the process at most, of diffusers'", _trained("diffusers", "peak_ratio")),
        ("memory of the process at most, of kohya's", _trained("kohya", "peak_ratio")),
        ("FLOPs, of diffusers'", _counted("flops")),
        ("kernels launched, of its", _counted("kernels")),
        ("memory at most |", _counted("peak_gib", "pigment", " GiB")),
        ("memory at most, of its", _counted("peak_gib")),
        ("memory at most with blocks recomputed", _counted("peak_gib", "pigment-checkpointed", " GiB")),
        ("a picture, 20 steps, no adapter", _drawn(0)),
        ("a picture, one adapter", _drawn(1)),
        ("a picture, four adapters", _drawn(4)),
        ("loading the embedded base", _loaded(DRAWN, 2)),
        ("loading 2 GB of SD 1.5 in bf16", _loaded(HALF, 1)),
        (
            "memory held at most meanwhile",
            [f"{HALF['load_peak_over_size']:.2f}", f"{HALF['load_diffusers_peak_over_size']:.2f}"],
        ),
        ("a preview after a slider's move, median", [f"{DRAWN['preview_ms_p50']:.0f} ms"]),
        ("a preview after a slider's move, 95th", [f"{DRAWN['preview_ms_p95']:.0f} ms"]),
        ("the subject asked for is the first guess", [f"{QUALITY['subject_top1']:.1%}"]),
        ("the background colour is", [f"{QUALITY['background_top1']:.1%}"]),
        ("caption found for a picture among 100", [f"{QUALITY['retrieval_r1']:.0%}"]),
        ("autoencoder", [f"{QUALITY['vae_psnr_db']:.1f} dB"]),
        ("one picture, 20 steps with guidance", [f"{QUALITY['seconds_per_picture_2cores']:.2f} s"]),
        (
            "a move of all sliders, median",
            [
                f"{MIX['blend_ms_p50']:.1f} ms",
                f"{MIX['diffusers_ms_p50']:.0f} ms",
                f"{MIX['blend_ratio_p50']:.0f}×",
            ],
        ),
        (
            "a move of all sliders, 95th",
            [
                f"{MIX['blend_ms_p95']:.1f} ms",
                f"{MIX['diffusers_ms_p95']:.0f} ms",
                f"{MIX['blend_ratio_vs_diffusers']:.0f}×",
            ],
        ),
        ("error of the mix", [f"{MIX['error']:.0e}", f"{MIX['diffusers_error']:.0e}"]),
        (
            "likeness to held-out pictures of the subject",
            [f"{DEMO['image_similarity_base']:.3f}", f"{DEMO['image_similarity_adapter']:.3f}"],
        ),
        (
            "fit to the prompt",
            [f"{DEMO['prompt_similarity_base']:.3f}", f"{DEMO['prompt_similarity_adapter']:.3f}"],
        ),
    ],
)
def test_a_row_of_figures_is_what_was_measured(row: str, values: list[str]) -> None:
    line = next(line for line in README.splitlines() if line.startswith(f"| {row}"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1 : 1 + len(values)] == values


def test_figures_in_the_text_are_what_was_measured() -> None:
    assert f"took {DEMO['seconds']:.0f} seconds" in README
    assert f"at {float(DEMO['export_psnr_db']):.1f} dB" in README
    assert f"{QUALITY['megabytes']:.0f} MB" in README
    low, high = MIX["blend_ratio_rounds"]
    assert f"{low:.0f}× to {high:.0f}× from round to round" in README
    assert f"{MIX['generate_ratio_k4']:.2f} of the time" in README
    assert f"{MIX['peak_bytes'] / 1e6:.0f} MB are kept" in README
    assert f"{INDEX['again_seconds_median']:.2f} s once" in README
    passed = sum("error" not in row for row in CONFORMANCE)
    assert f"{passed} of {len(CONFORMANCE)} combinations" in README
    spread = [ratio for found in DRAWN["adapters"].values() for ratio in found["ratio_spread"]]
    assert f"{min(spread):.2f} to {max(spread):.2f} of diffusers' time" in README
    assert f"{len(SAMPLERS)} samplers" in README
    assert f"{len(METHODS)} methods have a row" in README
    flat = " ".join(README.split())
    gains = TRAINED["1"]["mechanisms"]
    for name, said in (("graph", "replayed"), ("layers", "low-rank layers in one piece"),
                       ("frozen", "frozen blocks in one piece"), ("latent_cache", "cached latents"),
                       ("text_cache", "cached texts")):  # fmt: skip
        assert f"{said} {gains[name]['gain']:.2f}×" in flat
    assert all(row.label in flat for row in METHODS.values())
    assert all(f"| `{form}` |" in README for form in FORMATS)


def test_the_table_of_methods_is_what_was_measured() -> None:
    record = json.loads((ROOT / "tests/bench/results/methods.json").read_text(encoding="utf-8"))
    labels = {"base": "base alone"} | {name: TUNINGS[name].label for name in record["methods"]}
    assert as_markdown(record["methods"], record["base"], labels) in README
    assert f"{len(TUNINGS)} ways to train" in README
    flat = " ".join(README.split())
    assert all(row.label in flat for row in TUNINGS.values())


def test_what_is_said_of_evidence_is_what_was_measured() -> None:
    flat = " ".join(README.split())
    runs, near = EVIDENCE["runs"], EVIDENCE["within_2_percent"]
    assert f"**{near} of {runs} recommended steps come within 2% of the best one's score**" in flat
    regrets = (EVIDENCE["mean_regret"], EVIDENCE["last_checkpoint_regret"])
    assert f"with a mean regret of {regrets[0]:.1%}; of the last steps" in flat
    assert f"{EVIDENCE['last_within_2_percent']}, with {regrets[1]:.1%}." in flat
    assert f"It cost {EVIDENCE['overhead_percent']:.0f}% of a standard run" in flat
    assert evidence_table.as_markdown(EVIDENCE["table"]) in README
    for name, found in EVIDENCE["rules"].items():
        alarms = f"{found['false_alarms']} of {found['good']}"
        assert f"| {name.replace('_', ' ')} | {found['hits']} | {found['misses']} | {alarms} |" in README
    assert set(EVIDENCE["rules"]) == set(RULES)


def test_the_table_of_fault_suites_is_what_was_measured() -> None:
    assert faults_table.as_markdown(FAULTS) in README
    assert all(row["passed"] and row["planted_bug_caught"] for row in FAULTS["suites"].values())
    fields = {"tried", "survived", "figure", "planted_bug_caught", "seconds", "date", "machine", "versions"}
    assert all(row.keys() >= fields for row in FAULTS["suites"].values())


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_figures_files_have_every_field() -> None:
    assert QUALITY.keys() >= {
        "vae_psnr_db", "subject_top1", "background_top1", "retrieval_r1", "seconds_per_picture_2cores",
        "megabytes", "samples_seen", "date", "machine", "command",
    }  # fmt: skip
    assert MIX.keys() >= {
        "blend_ms_p50", "blend_ms_p95", "blend_ratio_vs_diffusers", "generate_ratio_k4", "peak_bytes",
        "date", "machine", "versions",
    }  # fmt: skip
    assert DRAWN.keys() >= {
        "load_seconds", "load_ratio", "load_peak_over_size", "preview_ms_p50", "preview_ms_p95", "date",
        "machine", "command",
    }  # fmt: skip
    assert all(found.keys() >= {"seconds", "ratio_vs_diffusers", "peak_bytes"}
               for found in DRAWN["adapters"].values())  # fmt: skip
    fields = {"family", "format", "method", "keys_written", "keys_matched", "delta_error", "psnr_db"}
    assert all(row.keys() >= fields for row in CONFORMANCE if "error" not in row)
    assert DEMO.keys() >= {
        "seconds", "image_similarity_base", "image_similarity_adapter", "prompt_similarity_base",
        "prompt_similarity_adapter", "export_psnr_db",
    }  # fmt: skip


def test_the_readmes_python_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None and len(code[1].strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    exec(compile(code[1], "README.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"assets", "zib.png", "both.safetensors"}
