"""`pigment bench generate` runs whole with tiny numbers; nothing here asserts a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainers.bench import generate, loading
from trainers.bench.loading import load_once, measured
from trainers.bench.models import random_file

TINY = [
    "--rounds",
    "1",
    "--pictures",
    "1",
    "--steps",
    "2",
    "--adapters",
    "0,2",
    "--moves",
    "3",
    "--device",
    "cpu",
]
LOADING = ("load_seconds", "load_ratio", "load_peak_over_size", "load_bytes")
PICTURES = ("seconds", "ratio_vs_diffusers", "peak_bytes")


def test_it_measures_a_folder_and_says_where_figures_come_from(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(way: str, path: Path, *, config: Path | None, dtype: str, device: str | None) -> dict[str, Any]:
        return load_once(way, path, config, dtype, device)

    monkeypatch.setattr(loading, "measured", here)  # a process for each is tested by itself
    out = tmp_path / "generate.json"
    assert generate.main(["--model", str(tiny_folder), *TINY, "--out", str(out), "--json"]) == 0
    report = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == report
    figures = report["models"][tiny_folder.name]
    assert all(figures[name] > 0 for name in LOADING)
    for count in ("0", "2"):
        assert all(figures["adapters"][count][name] > 0 for name in PICTURES)
    assert figures["preview_ms_p95"] >= figures["preview_ms_p50"] > 0
    assert str(tiny_folder.parent) not in json.dumps(report)
    assert report["command"].startswith("pigment bench generate --model")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--rounds", "0"], "--rounds is 0; give at least 1"),
        (["--adapters", "a"], "give numbers like 0,1,4"),
        (["--rounds", "many"], "invalid int value: 'many'; see pigment bench generate --help"),
        (["--cap-gib", "8", "--device", "cpu"], "limits a CUDA card"),
        (["--model", "sdxl", "--part", "pictures", "--device", "cpu"], "need a CUDA device; add --small"),
        (["--model", "nowhere", "--part", "preview", "--device", "cpu"], "no such folder"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(argv) == 2
    err = capsys.readouterr().err.strip()
    assert says in err and "\n" not in err


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_random_file_is_read_alike_by_both(family: str, tmp_path: Path) -> None:
    path = tmp_path / "random.safetensors"
    config = random_file(family, path, divisor=8)
    ours, theirs = (load_once(way, path, config, "bf16", "cpu") for way in ("pigment", "diffusers"))
    assert ours["checksum"] == pytest.approx(theirs["checksum"])
    assert ours["size_bytes"] <= path.stat().st_size


def test_a_failure_of_a_process_is_told(tmp_path: Path) -> None:
    from pipelines.errors import StudioError

    with pytest.raises(StudioError, match="loading by pigment ended with 1"):
        measured("pigment", tmp_path / "nowhere")
