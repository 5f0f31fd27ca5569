"""Loading never holds much more than the model itself, whatever precision the file is in.

The short form takes Stable Diffusion 1.5 at half its width; `make test-long` takes the full size, 2 GB.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from trainers.bench.loading import measured
from trainers.bench.models import random_file

LONG = bool(os.environ.get("PIGMENT_LONG"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's memory from /proc")
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"] if LONG else ["bf16"])
def test_a_single_file_is_loaded_within_a_fifth_more_than_its_size(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "random.safetensors"
    config = random_file("sd15", path, divisor=1 if LONG else 2)
    try:
        found = measured("pigment", path, config=config, dtype=dtype, device="cpu")
    finally:
        path.unlink()
    wide = 2 if dtype == "fp32" else 1
    assert found["size_bytes"] > (2e9 if LONG else 4e8) * wide
    assert found["peak_bytes"] <= 1.2 * found["size_bytes"], found
