"""Gradio is imported without what the page doesn't use, and works as ever."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys
import studio.starting as starting
before = sorted({"gradio"} & set(sys.modules))
gr = starting.import_gradio()
unused = [name for name in ("typer", "rich", "dateutil", "gradio.external_utils") if name in sys.modules]
meta = sys.modules[starting.STUBS[0]]
assert meta.create_or_modify_pyi.__module__ == "studio.starting"
assert starting.import_gradio() is gr
with gr.Blocks() as blocks:
    box = gr.Textbox(label="a")
    box.change(lambda text: text, box, box)
sys.modules["pandas"].DataFrame({"a": [1]})
print(json.dumps({"before": before, "unused": unused, "pandas": "pandas.core" in sys.modules,
    "load": callable(gr.load), "functions": len(blocks.fns), "finders": len(sys.meta_path)}))
"""


def run(program: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_gradio_comes_without_what_isnt_used_and_works() -> None:
    found = run(PROGRAM)
    assert found["before"] == [], "nothing of it at import"
    assert found["unused"] == []
    assert found["pandas"], "who asks for it gets it"
    assert found["load"]
    assert found["functions"] == 1
