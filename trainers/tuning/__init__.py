"""Tuning a base: adapters of every method put in, trained, taken out, and collected."""

from __future__ import annotations

from trainers.tuning.injection import Injection, disabled, inject, injected

__all__ = ["Injection", "disabled", "inject", "injected"]
