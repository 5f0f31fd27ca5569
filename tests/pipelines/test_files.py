"""Files that are either whole or not there."""

from __future__ import annotations

from pathlib import Path

from pipelines.files import write_atomic


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path: Path) -> None:
    """83 letters of 3 bytes: cut by letters, the temporary name would be too long."""
    path = tmp_path / ("文" * 83 + ".txt")
    write_atomic(path, [b"a"])
    assert path.read_bytes() == b"a" and list(tmp_path.iterdir()) == [path]
