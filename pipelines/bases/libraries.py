"""What diffusers and transformers are told: to be quiet, and what a pipeline takes beside its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def pipeline_extras(pipeline_class: type, zero_empty: bool) -> dict[str, Any]:
    """Return what a pipeline class wants beside the parts: no safety checker, no watermark, the zeroing."""
    import inspect

    wanted = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
        "force_zeros_for_empty_prompt": zero_empty,
        "add_watermarker": False,
    }
    taken = inspect.signature(pipeline_class).parameters
    return {name: value for name, value in wanted.items() if name in taken}


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the libraries' progress bars and notes while something is loaded; errors still show."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (level, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()
