"""How long a base takes to load and what it holds meanwhile, each time in a process of its own.

`python -m trainers.bench.loading WAY PATH …` loads once and prints one line of JSON. Imports come before the
clock starts, and every weight is read once before it stops, so that a memory map isn't counted as loaded
before its pages are there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.errors import StudioError

WAYS = ("pigment", "diffusers")


def load_once(way: str, path: Path, config: Path | None, dtype: str, device: str | None) -> dict[str, Any]:
    """Load a folder or a single file here and now.

    way: "pigment" or "diffusers" (`from_pretrained`, `from_single_file`). config: a folder of configs for a
    single file; None: those that ship. Returns: seconds; size_bytes, of the weights as they are held;
    peak_bytes, the most this process (on CUDA also the card) held more than before.
    """
    import torch

    from pipelines.device import choose_device

    chosen = choose_device(device, dtype)
    load = _pigment(path, config, dtype, device) if way == "pigment" else _diffusers(path, config, chosen)
    before = reset_peak()
    if chosen.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    networks = load()
    # Steps of 1 to 2 KB touch every page without making anything as large as a weight.
    checksum = sum(
        float(p.detach().view(-1)[::512].float().sum()) for network in networks for p in network.parameters()
    )
    seconds = time.perf_counter() - begin
    size = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    held = peak() - before
    card = torch.cuda.max_memory_allocated() if chosen.device.type == "cuda" else 0
    return {"seconds": seconds, "size_bytes": size, "peak_bytes": card or held, "host_bytes": held,
            "checksum": checksum}  # fmt: skip


def _pigment(path: Path, config: Path | None, dtype: str, device: str | None) -> Callable[[], list[Any]]:
    import diffusers
    import transformers

    from pipelines import preparing  # noqa: F401
    from pipelines.base import load_base
    from pipelines.bases import configs, loading, recognise, source  # noqa: F401

    # What a lazy module imports at its first use isn't loading.
    assert diffusers.UNet2DConditionModel and diffusers.AutoencoderKL and transformers.CLIPTextModel
    assert transformers.CLIPTextModelWithProjection and transformers.CLIPTokenizer

    def load() -> list[Any]:
        base = load_base(path, config=config, dtype=dtype, device=device)
        return [base.unet, base.vae, *base.text_encoders().values()]

    return load


def _diffusers(path: Path, config: Path | None, chosen: Any) -> Callable[[], list[Any]]:
    import diffusers

    from pipelines.base import pipeline_extras, quiet
    from pipelines.bases.source import open_source

    family = open_source(path, config=config).family
    kind = getattr(diffusers, family.pipeline_class)
    extras = pipeline_extras(kind, family.pooled)
    extras.pop("force_zeros_for_empty_prompt", None)

    def load() -> list[Any]:
        with quiet():
            if path.is_dir():
                pipeline = kind.from_pretrained(
                    path, torch_dtype=chosen.dtype, local_files_only=True, **extras
                )
            else:
                how = {"torch_dtype": chosen.dtype, "local_files_only": True, **extras}
                pipeline = kind.from_single_file(str(path), config=str(config), **how)
            pipeline.to(chosen.device)
        return [getattr(pipeline, part) for part in (*family.components, "vae")]

    return load


def reset_peak() -> int:
    """Forget the highest memory of this process so far; returns what it holds now, in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The most that this process held since `reset_peak`, in bytes, with what it read of mapped files."""
    return _status("VmHWM")


def _status(name: str) -> int:
    file = Path("/proc/self/status")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measured(
    way: str, path: Path, *, config: Path | None = None, dtype: str = "fp32", device: str | None = None
) -> dict[str, Any]:
    """`load_once` in a process of its own. Raises: StudioError with what it said where it failed."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "trainers.bench.loading",
        way,
        str(path),
        "--dtype",
        dtype,
    ]
    command += ["--config", str(config)] if config is not None else []
    command += ["--device", device] if device is not None else []
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise StudioError(f"loading by {way} ended with {done.returncode}: {lines[-1][:200]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Load once and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m trainers.bench.loading")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--device")
    args = parser.parse_args(argv)
    print(json.dumps(load_once(args.way, args.path, args.config, args.dtype, args.device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
