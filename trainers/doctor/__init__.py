"""The dataset doctor: looks at pictures and captions before a training, and says what to mend.

A new check is one function and one row of CHECKS.
"""

from __future__ import annotations

from trainers.doctor.case import Case, Finding
from trainers.doctor.checks import CHECKS, Check
from trainers.doctor.examine import examine

__all__ = ["CHECKS", "Case", "Check", "Finding", "examine"]
