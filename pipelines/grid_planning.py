"""A grid's cells before anything is drawn: what each is drawn with, and whether the grid can be."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.axes import Axis, Spot, spots
from pipelines.drawing.agreement import check, lacking
from pipelines.errors import ConfigError
from pipelines.generation import GenerationConfig

MAX_CELLS = 400
_MAX_AXES = 3
Place = tuple[int, ...]
"""A cell's places along the axes, in their order."""


def planned_cells(config: GenerationConfig, axes: Sequence[Axis]) -> dict[Place, Spot]:
    """Return what every cell is drawn with, in the order of drawing.

    Raises: ConfigError for axes that are twice the same or change nothing, too many cells, or settings
    that contradict each other; AdapterError for an adapter that isn't in the mix.
    """
    if not 1 <= len(axes) <= _MAX_AXES:
        raise ConfigError(f"a grid has 1 to {_MAX_AXES} axes; got {len(axes)}")
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MAX_CELLS:
        raise ConfigError(f"the grid has {count} pictures, at most {MAX_CELLS} are drawn; give fewer values")
    for number, axis in enumerate(axes):
        if any((axis.kind, axis.target) == (other.kind, other.target) for other in axes[:number]):
            raise ConfigError(f"two axes vary {axis.kind}; give each setting one axis")
    planned = spots(Spot(config=config.model_copy(update={"num_images": 1})), axes)
    for axis in axes:
        needs = {lacking(spot.config, axis.kind) for spot in planned.values()}
        if None not in needs:
            raise ConfigError(f"axis {axis.kind} changes nothing: it needs {needs.pop()}; set that too")
    for spot in planned.values():
        check(spot.config)
    return planned
