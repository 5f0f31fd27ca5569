"""Gradio, imported in half its time: without what writes its type stubs, and what the page doesn't use.

At each import Gradio reads the source of every component, parses it and compares it with a stub file beside
it; that is more than half of the import. pandas, Gradio's command line and httpx's come along unused.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from pipelines.bases.postponing import LATER, postponed

STUBS = "gradio.component_meta", "create_or_modify_pyi"
"""The function that reads sources and writes stubs: (module, name)."""
UNUSED = {
    "pandas": {},
    "httpx._main": {"main": LATER},
    "gradio.cli": {"deploy": LATER},
    "gradio.workflow": {"Workflow": LATER},
    "hf_gradio.cli": dict.fromkeys(("_condense_info", "generate_cli_snippet", "info", "predict"), LATER),
    "gradio.external": {"load": LATER, "load_chat": LATER, "load_openapi": LATER},
}
"""Modules that Gradio imports, and what it asks of each."""


class _NoStubs:
    """Finds the module of STUBS; as its loader, runs it and takes the function away."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """Find the module, and nothing else."""
        if name != STUBS[0]:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            self._loader: Any = spec.loader
            spec.loader = self  # type: ignore[assignment]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Let an ordinary module be made."""

    def exec_module(self, module: ModuleType) -> None:
        """Run it, and let stubs be as they are."""
        self._loader.exec_module(module)
        if hasattr(module, STUBS[1]):
            setattr(module, STUBS[1], lambda *arguments: None)


def import_gradio() -> ModuleType:
    """Import Gradio, if it isn't yet, in the way the page wants it; return it."""
    if "gradio" in sys.modules:
        return sys.modules["gradio"]
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # Gradio makes tables of its events with pandas after each of them; nobody looks at them.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
    finder = _NoStubs()
    sys.meta_path.insert(0, finder)
    try:
        with postponed(UNUSED, lasting=("pandas",)):
            return importlib.import_module("gradio")
    finally:
        sys.meta_path.remove(finder)
