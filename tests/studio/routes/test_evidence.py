"""Reports and comparisons: by id only, without scripts, 404 where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio import attached
from studio.context import Context
from studio.routes import evidence
from tests.made_runs import HOSTILE, made_run
from trainers.evidence.report import write_report


@pytest.fixture
def client(context: Context) -> Iterator[TestClient]:
    """The routes alone."""
    app = FastAPI()
    evidence.add(app, context)
    with TestClient(app) as found:
        yield found


@pytest.fixture
def runs(context: Context) -> list[str]:
    """The ids of two trainings with evidence, and of one without."""
    jobs = [context.jobs.submit("train", f"{HOSTILE[:40]} {number}", {}) for number in range(3)]
    for job in jobs[:2]:
        write_report(made_run(context.jobs.folder(job)))
    return [job.id for job in jobs]


def test_a_report_is_served_without_scripts(client: TestClient, runs: list[str]) -> None:
    answer = client.get(f"/files/report/{runs[0]}")
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy and "sandbox allow-downloads" in policy and "script" not in policy
    assert answer.headers["cache-control"] == "no-cache" and "As it learned" in answer.text


@pytest.mark.parametrize("wanted", ["{2}", "none", "adapter/none", "..%2f..%2fsecret", "{0}%2f..", "A B"])
def test_no_report_is_no_file(client: TestClient, runs: list[str], wanted: str) -> None:
    assert client.get(f"/files/report/{wanted.format(*runs)}").status_code == 404


def test_an_adapters_report_outlives_its_run(
    client: TestClient, context: Context, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    entry, _ = context.library.add(make_adapter(tmp_path / "disc.safetensors"))
    assert client.get(f"/files/report/adapter/{entry.id}").status_code == 404
    attached.attach(context.workspace, entry.id, made_run(tmp_path / "run"))
    assert "As it learned" in client.get(f"/files/report/adapter/{entry.id}").text


def test_runs_are_compared(client: TestClient, runs: list[str]) -> None:
    answer = client.get(f"/files/compare/{runs[0]},{runs[1]}")
    assert answer.status_code == 200 and "What differs" in answer.text and "<script>" not in answer.text
    assert "sandbox" in answer.headers["content-security-policy"]
    assert client.get(f"/files/compare/{runs[0]}").status_code == 422
    assert client.get(f"/files/compare/{runs[0]},{runs[0]}").status_code == 422  # the same one twice
    unmeasured = client.get(f"/files/compare/{runs[0]},{runs[2]}")
    assert unmeasured.status_code == 404 and "nothing was measured" in unmeasured.json()["detail"]
    for wrong in ("none,{0}", "{0},..%2f..", ",", "{0},"):
        assert client.get(f"/files/compare/{wrong.format(*runs)}").status_code == 404
