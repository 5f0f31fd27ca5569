"""Pictures of a run by its id: what was drawn to measure on, and what was learned from; nothing else."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio import teaching
from studio.context import Context
from studio.routes import files


def test_a_runs_pictures_are_answered_and_nothing_beside_them(context: Context, filled: str) -> None:
    job = teaching.start(context, teaching.Lesson(dataset=filled, trigger="zuv", class_name="disc"))
    copy = context.jobs.submit("train", "copy", job.config)  # done anew: it reads the same pictures
    stray = context.jobs.submit("train", "stray", {"data": {"instance_images": "/etc/.."}})
    folder = context.jobs.folder(job)
    (folder / "evidence").mkdir(parents=True)
    (folder / "evidence" / "drawn-00.png").write_bytes(b"drawn")
    (folder / "secret.png").write_bytes(b"secret")
    app = FastAPI()
    files.add(app, context)
    client = TestClient(app)
    assert client.get(f"/files/evidence/{job.id}/drawn-00.png").content == b"drawn"
    learned = (context.workspace.folder("pictures", job.id) / "001.png").read_bytes()
    for one in (job, copy):
        assert client.get(f"/files/taught/{one.id}/001.png").content == learned
    for address in (
        f"evidence/{job.id}/..%2Fsecret.png", f"evidence/{job.id}/secret.png",
        f"evidence/{job.id}/config.json",
        f"taught/{job.id}/005.png", f"taught/{job.id}/..%2F..%2Fsecret.png", f"taught/{stray.id}/001.png",
        "taught/nothing/001.png",
    ):  # fmt: skip
        assert client.get(f"/files/{address}").status_code == 404, address


def test_a_runs_own_folder_name_is_checked(context: Context) -> None:
    app = FastAPI()
    files.add(app, context)
    job = context.jobs.submit("train", "odd", {"data": {"instance_images": "/x/A name.png"}})
    assert TestClient(app).get(f"/files/taught/{job.id}/001.png").status_code == 404
