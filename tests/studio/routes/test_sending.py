"""Files of the workspace are sent, what links in their place lead to isn't."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import HTTPException

from studio.routes.sending import sent


def test_a_file_is_sent_and_what_a_link_leads_to_is_not(tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", tmp_path / "picture.png"
    secret.write_text("x")
    link.symlink_to(secret)
    assert sent(secret).status_code == 200
    for path in (link, tmp_path / "missing", tmp_path, None):
        with pytest.raises(HTTPException, match="404"):
            sent(path)
