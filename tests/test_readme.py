"""The README's figures are the measured ones, and what it names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUALITY = json.loads((ROOT / "assets/pocket/quality.json").read_text(encoding="utf-8"))
DEMO = json.loads((ROOT / "tests/bench/results/demo.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("the subject asked for is the first guess", [f"{QUALITY['subject_top1']:.1%}"]),
        ("the background colour is", [f"{QUALITY['background_top1']:.1%}"]),
        ("caption found for a picture among 100", [f"{QUALITY['retrieval_r1']:.0%}"]),
        ("autoencoder", [f"{QUALITY['vae_psnr_db']:.1f} dB"]),
        ("one picture, 20 steps with guidance", [f"{QUALITY['seconds_per_picture_2cores']:.2f} s"]),
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


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_figures_files_have_every_field() -> None:
    assert QUALITY.keys() >= {
        "vae_psnr_db", "subject_top1", "background_top1", "retrieval_r1", "seconds_per_picture_2cores",
        "megabytes", "samples_seen", "date", "machine", "command",
    }  # fmt: skip
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
