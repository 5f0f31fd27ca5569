"""The names by which the loop knows `trainers.tuning`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.adapter import Adapter
from trainers.tuning import Injection, disabled, inject, injected

__all__ = ["Injection", "collect", "disabled", "eject", "inject", "injected"]


def eject(injection: Injection) -> None:
    """Take the adapter out."""
    injection.eject()


def collect(
    injection: Injection, name: str, triggers: Sequence[str] = (), metadata: Mapping[str, str] | None = None
) -> Adapter:
    """Copy what was trained into an Adapter."""
    return injection.collect(name, triggers, metadata)
