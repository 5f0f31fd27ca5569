"""A grid of pictures along one, two or three axes, as one labelled picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.axes import Axis
from pipelines.generation import GenerationConfig
from pipelines.grid_planning import MAX_CELLS, Place, planned_cells
from pipelines.grids import labelled_grid, shrunk, stacked
from pipelines.picture import Picture
from pipelines.stage import Stage, share_of_steps

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.denoise import OnStep

__all__ = ["MAX_CELLS", "Grid", "Place", "compose", "draw_grid", "planned_cells"]


@dataclass(frozen=True, eq=False)
class Grid:
    """A drawn grid. picture: the whole, labelled, with the first cell's settings and the axes in its file.

    cells: each picture by its places along the axes, in the order that the axes were given in.
    """

    picture: Picture
    cells: dict[Place, Picture]


def draw_grid(
    stage: Stage, config: GenerationConfig, axes: Sequence[Axis], *, on_step: OnStep | None = None
) -> Grid | None:
    """Draw every combination of the axes' values: the first along x, the second along y, the third below.

    A cell is the picture that its settings give alone, bit for bit. on_step counts over all cells; when it
    returns False the answer is None.

    Raises: ConfigError for too many axes or cells, or a value out of bounds, before anything is drawn;
    what loading a base, mixing and drawing raise.
    """
    planned = planned_cells(stage.recorded(config), axes)
    total, done = sum(spot.config.num_inference_steps for spot in planned.values()), 0
    cells: dict[Place, Picture] = {}
    for place, spot in planned.items():
        steps = spot.config.num_inference_steps
        drawn = stage.draw(spot.config, base=spot.base, on_step=share_of_steps(on_step, done, steps, total))
        if not drawn:
            return None
        cells[place], done = drawn[0], done + steps
    first = cells[(0,) * len(axes)]
    settings = {**first.settings, "grid": [axis.as_data() for axis in axes]}
    whole = Picture(image=compose(cells, axes), settings=settings, seed=first.seed)
    return Grid(picture=whole, cells=cells)


def compose(cells: dict[Place, Picture], axes: Sequence[Axis]) -> Image:
    """Put cells together; a grid too large for a file's limits is made of smaller cells."""
    x, y, z = (*axes, None, None)[:3]
    assert x is not None
    columns = [x.label(value) for value in x.values]
    rows = [""] if y is None else [y.label(value) for value in y.values]
    layers = [None] if z is None else [z.label(value) for value in z.values]
    factor = shrunk(cells[(0,) * len(axes)].image.size, (len(columns), len(rows) * len(layers)))
    pictures = []
    for layer, title in enumerate(layers):
        places = [[(i, j, layer)[: len(axes)] for i in range(len(columns))] for j in range(len(rows))]
        images = [[cells[place].image.reduce(factor) for place in row] for row in places]
        pictures.append(labelled_grid(images, rows, columns, title=title))
    return stacked(pictures)
