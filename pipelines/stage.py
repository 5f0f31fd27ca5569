"""Many pictures of one mix: the base and the adapters stay, what changes is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.denoise import OnStep, Step
from pipelines.errors import ConfigError
from pipelines.generate import Inputs, generate
from pipelines.generation import GenerationConfig, recorded
from pipelines.mixer import Mixer
from pipelines.picture import Picture

LoadBase = Callable[[str], Base]


class Stage:
    """Draws picture after picture, each as `generate` draws it alone, bit for bit.

    Holds one base beside the one it was given at most. The adapters' weights are what a picture's
    settings record of them. As a context manager it gives the base back as it was.
    """

    def __init__(
        self,
        base: Base,
        adapters: Sequence[Adapter] = (),
        *,
        inputs: Inputs | None = None,
        load: LoadBase | None = None,
    ) -> None:
        """adapters: in the order of the settings' `adapters`. load: gives other bases by name.

        Nothing is put into the base before the first picture.
        """
        self._own, self._adapters, self._inputs, self._load = base, tuple(adapters), inputs, load
        self._ref = base.ref
        self._mixer: Mixer | None = None

    def draw(
        self,
        config: GenerationConfig,
        *,
        base: str | None = None,
        on_step: OnStep | None = None,
        on_picture: Callable[[Picture], object] | None = None,
    ) -> list[Picture]:
        """Draw what `config` says, with its adapters' weights; fewer where `on_step` stopped it.

        base: the name of another base, None for the one that was given. on_step, on_picture: as `generate`
        has them.
        Raises: ConfigError where the settings name another number of adapters than are here; what
        loading a base, mixing and drawing raise.
        """
        if len(config.adapters) != len(self._adapters):
            raise ConfigError(
                f"the settings name {len(config.adapters)} adapters, {len(self._adapters)} are here; "
                "give each"
            )
        mixer = self._at(self._own.ref if base is None else base)
        mixer.set({str(place): use.weights() for place, use in enumerate(config.adapters)})
        return generate(mixer.base, config, inputs=self._inputs, on_step=on_step, on_picture=on_picture)

    def recorded(self, config: GenerationConfig) -> GenerationConfig:
        """Return the settings with the pictures that are drawn from. Raises: ConfigError for other ones."""
        return recorded(config, self._inputs or Inputs())

    def close(self) -> None:
        """Give the base back as it was."""
        if self._mixer is not None:
            self._mixer.restore()
            self._mixer = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _at(self, ref: str) -> Mixer:
        """The mixer over the base of that name; another base is let go first."""
        if self._mixer is not None and ref == self._ref:
            return self._mixer
        self.close()
        if ref == self._own.ref:
            base = self._own
        elif self._load is None:
            raise ConfigError(f"base {ref!r} can't be loaded here; expected {self._own.ref!r} alone")
        else:
            base = self._load(ref)
        mixer = Mixer(base)
        self._mixer, self._ref = mixer, ref
        for place, adapter in enumerate(self._adapters):
            mixer.add(str(place), adapter)
        return mixer


def share_of_steps(on_step: OnStep | None, done: int, steps: int, total: int) -> OnStep | None:
    """Make one picture of many count on: `done` steps before it, `steps` its own, of `total` in all."""
    if on_step is None:
        return None

    def told(step: Step) -> bool | None:
        return on_step(replace(step, done=done + round(steps * step.done / step.total), total=total))

    return told
