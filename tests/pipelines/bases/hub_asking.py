"""What tests against the small hub share."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.bases.hub import HubRef, fetch_base, hub_ref
from pipelines.errors import BaseError

TINY = HubRef("org/tiny")
UNET = "unet/diffusion_pytorch_model.safetensors"


def fail(ref: str | HubRef, **options: Any) -> str:
    """The message of a fetch that must be refused, on one line."""
    with pytest.raises(BaseError) as caught:
        fetch_base(ref if isinstance(ref, HubRef) else named(ref), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def named(text: str) -> HubRef:
    found = hub_ref(text)
    assert found is not None, text
    return found
