"""`pigment bench studio`: its arithmetic and its files; the page itself is measured by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StudioError
from studio.bench import studio as bench
from studio.bench.served import poll
from studio.bench.status import training
from trainers.config import TrainConfig

FIGURES = (
    "seconds_to_interactive", "preview_ms_p50", "preview_ms_p95", "status_ms_p95_50_clients",
    "training_slowdown", "minutes_first_adapter",
)  # fmt: skip


async def _polled(status: int, clients: int, seconds: float) -> list[float]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                body = b'{"jobs": []}'
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        return await poll(f"http://127.0.0.1:{port}", "/api/status", clients, seconds, every=0.1)


def test_clients_ask_again_and_again_over_one_connection() -> None:
    taken = asyncio.run(_polled(200, clients=3, seconds=0.35))
    assert 6 <= len(taken) <= 15 and all(one > 0 for one in taken)
    with pytest.raises(StudioError, match="503"):
        asyncio.run(_polled(503, clients=1, seconds=0.2))


def test_the_training_that_is_polled_is_a_whole_one(tmp_path: Path) -> None:
    jobs, job = training(tmp_path, steps=40)
    config = TrainConfig.model_validate(job.config)
    assert jobs.next() == job and config.run.steps == 40
    assert config.run.output == jobs.folder(job) and config.data.instance_images.is_dir()


def test_figures_of_parts_measured_before_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "bench" / "results" / "studio.json"
    record.parent.mkdir(parents=True)
    monkeypatch.setattr(bench, "RECORD", record)
    figures: dict[str, Any] = {"preview_ms_p50": 400.04, "preview_ms_p95": 600.0}
    monkeypatch.setattr(bench.preview, "measure", lambda moves, drag: dict(figures))
    monkeypatch.setattr(bench.pages, "first_adapter", lambda: {"minutes_first_adapter": 2.5})
    assert bench.main(["--part", "preview", "--record"]) == 0
    assert bench.main(["--part", "first", "--record"]) == 0
    kept = json.loads(record.read_text())
    assert kept["preview_ms_p50"] == 400 and kept["minutes_first_adapter"] == 2.5
    assert set(kept["parts"]) == {"preview", "first"} and kept["parts"]["first"]["command"].endswith(
        "first --record"
    )


def test_wrong_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--clients", "0"]) == 2
    assert "--clients is 0" in capsys.readouterr().err


def test_the_figures_file_holds_what_was_asked_for() -> None:
    if not bench.RECORD.is_file():
        pytest.skip("nothing was recorded yet")
    kept = json.loads(bench.RECORD.read_text())
    assert set(FIGURES) <= set(kept) and all(isinstance(kept[name], int | float) for name in FIGURES)
