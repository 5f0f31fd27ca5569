"""What the tabs share on the page itself."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from pipelines.errors import StudioError
from studio import markup

log = logging.getLogger("pigment")

Handler = TypeVar("Handler", bound=Callable[..., Any])

# Listeners of the page are its own affair: they are no endpoints for others, and no spinner covers the page.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
BUSY: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


@dataclass(frozen=True)
class Page:
    """The page that a tab is built into.

    Attributes:
        tabs: set `gr.Tabs(selected=id)` to go to a tab.
        wish: what another tab wants of Mix (`js/mix.js` takes each once): "at", a time that tells it from the
            one before, and any of "adapters", a list of MixParts; "prompt"; "generation", fields of a
            GenerationConfig; "image", what is drawn over, empty for nothing.
    """

    blocks: gr.Blocks
    tabs: gr.Tabs
    wish: gr.State


def show(elem_id: str) -> str:
    """JavaScript that brings a piece of the page into view, for narrow screens where it lies below."""
    options = "{behavior: 'smooth', block: 'nearest'}"
    return f"() => document.getElementById('{elem_id}')?.scrollIntoView({options})"


def toast(handler: Handler) -> Handler:
    """Show a handler's StudioError as one line on the page instead of failing."""

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except StudioError as error:
            # Gradio shows a toast as HTML.
            raise gr.Error(markup.text(error), duration=12, print_exception=False) from None
        except gr.Error:
            raise
        except Exception as error:
            log.exception("%s failed", handler.__name__)
            raise gr.Error(
                f"something went wrong here ({type(error).__name__}); the server's output says more",
                print_exception=False,
            ) from None

    return wrapped  # type: ignore[return-value]
