"""The settings of a training, section by section: validated, immutable, for the CLI and the page alike.

Every field carries its title, help, bounds, unit and tier ("simple" is always shown, "advanced" is
folded away). `trainers.config` joins the sections, and holds the presets.
"""

from __future__ import annotations

from trainers.settings.adapter import TRAINABLE, AdapterConfig
from trainers.settings.data import DataConfig
from trainers.settings.evidence import EvidenceConfig
from trainers.settings.fields import Section
from trainers.settings.objective import WEIGHTING_NAMES, ObjectiveConfig
from trainers.settings.optimizer import OPTIMIZER_NAMES, SCHEDULE_NAMES, OptimizerConfig
from trainers.settings.run import RunConfig

__all__ = [
    "OPTIMIZER_NAMES",
    "SCHEDULE_NAMES",
    "TRAINABLE",
    "WEIGHTING_NAMES",
    "AdapterConfig",
    "DataConfig",
    "EvidenceConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "RunConfig",
    "Section",
]
