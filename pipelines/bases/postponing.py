"""Modules that importing a library drags in though nothing of them is used: imported when they are.

`import diffusers` and transformers' CLIP bring PyTorch's compiler, large parts of scipy and all of PEFT: a
third of the time from the start of a process to its first step. While `postponed` lasts, the modules of
its table are stand-ins that hand out stand-ins for the names that are asked for. Each becomes the real thing
as soon as anything but being imported is done with it: called, looked into, subclassed, or asked for what the
table doesn't name. Whether something is an instance of a class of a module that nobody has imported is
answered with no, as it can't be otherwise.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Names = Mapping[str, Any]
"""What is asked of a module: by name, what is handed out, or LATER for a stand-in."""

LATER = object()


class _Stands(type):
    """The class of stand-ins for classes and functions."""

    def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
        """Make a stand-in, or, of a class that has one for its base, the class itself."""
        if not bases:
            return super().__new__(cls, name, bases, space)
        real = tuple(base._real() if isinstance(base, _Stands) else base for base in bases)
        kind: Any = type(real[0])
        return kind(name, real, {key: value for key, value in space.items() if key != "__classcell__"})

    def _real(cls) -> Any:
        module = sys.modules.get(cls.__module__)
        if isinstance(module, _StandIn):
            module = module._load(module.__name__)
        else:  # also where it is there: another thread may be in the middle of its import, which this awaits
            module = importlib.import_module(cls.__module__)
        return getattr(module, cls.__name__)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def __instancecheck__(cls, instance: object) -> bool:
        return _loaded(cls.__module__) and isinstance(instance, cls._real())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return _loaded(cls.__module__) and issubclass(subclass, cls._real())


class _StandIn(ModuleType):
    """A module that isn't imported yet."""

    def __init__(self, name: str, names: Names, load: Callable[[str], ModuleType]) -> None:
        super().__init__(name)
        self.__dict__.update({"_names": names, "_load": load, "_made": {}})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._names or _loaded(self.__name__):
            return getattr(self._load(self.__name__), name)
        if name not in self._made:
            value = self._names[name]
            self._made[name] = _Stands(name, (), {"__module__": self.__name__}) if value is LATER else value
        return self._made[name]


def _loaded(module: str) -> bool:
    return not isinstance(sys.modules.get(module), _StandIn | None)


class _Finder:
    """Finds stand-ins for the modules of a table; as a loader, makes them. on: whether it makes new ones."""

    def __init__(self, table: Mapping[str, Names], packages: Sequence[str]) -> None:
        self.on = True
        self._table, self._packages = dict(table), packages
        self._lock = threading.Lock()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """Find a stand-in; below one, import what it stands for, and find what that has brought."""
        parent = name.rpartition(".")[0]
        if self.on and name in self._table:
            found = PathFinder.find_spec(name, path)
            if found is not None:
                found.loader = self  # type: ignore[assignment]
            return found
        if isinstance(sys.modules.get(parent), _StandIn) and parent not in self._packages:
            self.load(parent)
            if name in sys.modules:
                return _There(sys.modules[name]).spec()
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make a stand-in."""
        return _StandIn(spec.name, self._table[spec.name], self.load)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run."""

    def load(self, name: str) -> ModuleType:
        """Import a module that has a stand-in, and those above and below it."""
        with self._lock:  # threads may use two stand-ins at once; they wait for each other's import outside
            above = [one for one in self._table if name == one or name.startswith(f"{one}.")]
            root = min(above, key=len, default=name)
            for one in [one for one in self._table if one == root or one.startswith(f"{root}.")]:
                del self._table[one]
                if isinstance(sys.modules.get(one), _StandIn):
                    del sys.modules[one]
        return importlib.import_module(name)


class _There:
    """Loads what is loaded."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def spec(self) -> ModuleSpec:
        """Return what loads the module as it is; importlib would run it again by a spec of its own."""
        self._module.__spec__ = None
        return ModuleSpec(self._module.__name__, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Give the module."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Give it its own spec back."""
        module.__spec__ = self._spec


@contextmanager
def postponed(
    table: Mapping[str, Names], lasting: Sequence[str] = (), packages: Sequence[str] = ()
) -> Iterator[None]:
    """Put stand-ins in the place of modules while others are imported.

    table: the modules, and what of each is asked for by those that import them; modules that are imported
    already stay as they are. lasting: those that stay after the block until they are used, since what is
    used later imports them too; the others are imported as usual by whoever imports them then. packages: of
    the lasting ones, those that modules below them can be imported without.
    """
    finder = _Finder({name: names for name, names in table.items() if name not in sys.modules}, packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.on = False
        for name in [name for name in table if name not in lasting]:
            if isinstance(sys.modules.get(name), _StandIn):
                del sys.modules[name]  # parents keep it as an attribute, which finds the real one
        if not any(isinstance(sys.modules.get(name), _StandIn) for name in lasting):
            sys.meta_path.remove(finder)
