"""Steps on a CPU as the list of their operators: no modules, no autograd, only kernels one after the other.

Small models are bound on a CPU by what goes on around kernels: Python's modules, and the graph that autograd
builds and walks at every step although it is the same each time. Here both passes are watched once, and from
then on their operators are called straight away with the tensors that they had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.stepping.replay import Tensors

_SAME = ("aten.detach.default", "aten.alias.default", "aten.lift_fresh.default")
"""Operators that answer what they are given, as far as numbers go."""

_METHODS = {
    "aten._unsafe_view.default": "view",
    "aten.view.default": "view",
    "aten.t.default": "t",
    "aten.transpose.int": "transpose",
    "aten.permute.default": "permute",
    "aten.expand.default": "expand",
    "aten.unsqueeze.default": "unsqueeze",
    "aten.add_.Tensor": "add_",
    "aten.addmm_.default": "addmm_",
    "aten.mul_.Tensor": "mul_",
}
"""Operators by the method of a tensor that does the same, sooner."""


_QUICK = tuple(
    f"aten.{name}"
    for name in (
        "mm.default", "addmm.default", "bmm.default", "baddbmm.default", "add.Tensor", "mul.Tensor",
        "div.Tensor", "native_group_norm.default", "native_layer_norm.default", "cat.default",
        "split.Tensor", "clone.default", "sum.dim_IntList", "select.int", "stack.default",
    )
)  # fmt: skip
"""Operators whose own function in `torch` takes the same arguments, and looks at them faster."""


@dataclass(frozen=True)
class _Value:
    """A tensor that operators make, by number."""

    number: int


@dataclass(frozen=True, eq=False)
class _Call:
    """One operator. args, kwargs: with values in their tensors' places. gives: its results' values, None for
    what is none."""

    func: Any
    args: Any
    kwargs: dict[str, Any]
    gives: Any

    @property
    def reads(self) -> set[int]:
        """Numbers of the values that it takes."""
        return {one.number for one in _leaves((self.args, self.kwargs)) if isinstance(one, _Value)}

    @property
    def makes(self) -> set[int]:
        """Numbers of the values that it gives."""
        return {one.number for one in _leaves(self.gives) if isinstance(one, _Value)}

    @property
    def counts(self) -> bool:
        """Whether it does something beside giving results."""
        return bool(self.func._schema.is_mutable) or torch.Tag.nondeterministic_seeded in self.func.tags


class _Watch(TorchDispatchMode):
    """Notes every operator with what it took and gave.

    Tensors are told apart by where they lie, since autograd hands on others of the same numbers. What lies
    where no operator has made anything stays as it is: parameters, tables, the inputs' own places.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._values: dict[int, dict[tuple[Any, ...], _Value | torch.Tensor]] = {}  # by address, then by view
        self._makers: dict[int, _Value] = {}  # what was made first at an address
        self._overwritten: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, named = self.read(args), self.read(kwargs or {})
        before = {_address(one) for one in _tensors((args, kwargs or {}))}
        if func._schema.is_mutable:
            self._remember(_tensors((args, kwargs or {})))
        found = func(*args, **(kwargs or {}))
        if str(func) in _SAME:
            self._name(found, given[0])
        elif func.is_view and not any(isinstance(one, _Value) for one in _leaves((given, named))):
            for one in _tensors(found):  # a view of what stays stays too
                self._name(one, one)
        else:
            self.calls.append(_Call(func, given, named, self._given(found, before)))
        return found

    def read(self, value: Any) -> Any:
        """Return a tensor, or tensors in lists and dictionaries, as values where operators have made them."""
        if isinstance(value, torch.Tensor):
            return self._read(value)
        if isinstance(value, dict):
            return {name: self.read(part) for name, part in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(self.read(part) for part in value)
        return value

    def _read(self, tensor: torch.Tensor) -> _Value | torch.Tensor:
        address = _address(tensor)
        known = self._values.get(address, {}).get(_view(tensor))
        if known is not None:
            return known
        if (maker := self._makers.get(address)) is None:
            return tensor
        found = self._new(tensor)  # another view of what operators made, by somebody else
        view = (maker, list(tensor.shape), list(tensor.stride()), tensor.storage_offset())
        self.calls.append(_Call(torch.ops.aten.as_strided.default, view, {}, found))
        return found

    def _given(self, found: Any, before: set[int]) -> Any:
        """Return an operator's results as values. before: addresses of what it took."""
        if isinstance(found, tuple | list):
            return tuple(self._given(part, before) for part in found)
        if not isinstance(found, torch.Tensor) or not found.numel():
            return None
        address = _address(found)
        if address in before:  # it has written there, or looks at it in another way
            known = self._values.get(address, {}).get(_view(found))
            if known is not None or address not in self._makers:
                return known if isinstance(known, _Value) else None
            return self._new(found)
        self._values[address] = {}  # whatever lay there is gone
        self._makers[address] = value = self._new(found)
        return value

    def _new(self, tensor: torch.Tensor) -> _Value:
        value = _Value(self._count)
        self._count += 1
        self._name(tensor, value)
        return value

    def _name(self, tensor: torch.Tensor, value: _Value | torch.Tensor) -> None:
        if tensor.numel():
            self._values.setdefault(_address(tensor), {})[_view(tensor)] = value

    def _remember(self, given: Iterator[torch.Tensor]) -> None:
        """Keep what may be written over, where no operator has made it."""
        for tensor in given:
            address = _address(tensor)
            if address not in self._makers and address not in self._overwritten and tensor.numel():
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._overwritten[address] = (whole, whole.clone())

    def undo(self) -> None:
        """Give back what was written over: nothing is done while it is watched."""
        for whole, value in self._overwritten.values():
            whole.copy_(value)


def _address(tensor: torch.Tensor) -> int:
    if tensor.layout is not torch.strided:  # packed for oneDNN: there is no storage to be asked for
        return -id(tensor)
    return tensor.untyped_storage().data_ptr()


def _view(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.layout is not torch.strided:
        return ()
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    return (one for one in _leaves(value) if isinstance(one, torch.Tensor))


class Operators:
    """A `Recorder` for a CPU. The numbers are those of the steps themselves, bit for bit."""

    name = "operators"
    calls_before = 8
    exact = True

    def aside(self, call: Callable[[], Tensors]) -> Tensors:
        """See Recorder."""
        return call()

    def record(self, call: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        """See Recorder."""
        random = torch.get_rng_state()
        with _Watch() as watch:
            found = call()
        results = {name: watch.read(value) for name, value in found.items()}
        kept = {name: torch.empty_like(value) for name, value in found.items()}
        with torch.no_grad():
            watch.undo()
        torch.set_rng_state(random)
        run = _written(watch.calls, results)

        def again() -> None:
            with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
                for name, value in run().items():
                    kept[name].copy_(value)

        return kept, again

    def random_state(self) -> Any:
        """See Recorder."""
        return torch.get_rng_state()

    def set_random_state(self, state: Any) -> None:
        """See Recorder."""
        torch.set_rng_state(state)

    def give_up(self) -> None:
        """See Recorder."""


def _written(calls: Sequence[_Call], results: Mapping[str, Any]) -> Callable[[], dict[str, torch.Tensor]]:
    """Write calls down as one function of Python's; each value is dropped after its last use."""
    wanted = {one.number for one in results.values() if isinstance(one, _Value)}
    staying, used = set(wanted), []
    for one in reversed(calls):  # what nobody reads isn't made
        if one.counts or one.makes & wanted:
            used.append(one)
            wanted |= one.reads
    used.reverse()
    last = {number: index for index, one in enumerate(used) for number in one.reads | one.makes}
    names: dict[str, Any] = {}
    lines = ["def run():"]
    for index, one in enumerate(used):
        lines.append(f"    {_line(one, names)}")
        over = sorted(number for number in one.reads | one.makes if last[number] == index)
        dropped = ", ".join(f"v{number}" for number in over if number not in staying)
        if dropped:
            lines.append(f"    del {dropped}")
    pairs = (f"{name!r}: {_said(value, names)}" for name, value in results.items())
    lines.append(f"    return {{{', '.join(pairs)}}}")
    exec(compile("\n".join(lines), "<recorded step>", "exec"), names)
    run: Callable[[], dict[str, torch.Tensor]] = names["run"]
    return run


def _line(call: _Call, names: dict[str, Any]) -> str:
    """A call as a line of Python's."""
    said = [_said(one, names) for one in call.args]
    named = [f"{name}={_said(one, names)}" for name, one in call.kwargs.items()]
    method = _METHODS.get(str(call.func))
    if method is not None:
        made = f"{said[0]}.{method}({', '.join([*said[1:], *named])})"
    else:
        made = f"{_name(call.func, names)}({', '.join([*said, *named])})"
    if isinstance(call.gives, tuple):
        targets = ["_" if one is None else f"v{one.number}" for one in call.gives]
        return f"{', '.join(targets)}{',' if len(targets) == 1 else ''} = {made}" if targets else made
    return made if call.gives is None else f"v{call.gives.number} = {made}"


def _name(func: Any, names: dict[str, Any]) -> str:
    said = str(func)
    name = "f_" + said.replace(".", "_")
    quick = getattr(torch._C._VariableFunctions, said.split(".")[1], None) if said in _QUICK else None
    names.setdefault(name, quick or func._op)
    return name


def _said(value: Any, names: dict[str, Any]) -> str:
    """An argument as Python says it; what can't be said is kept by name."""
    if isinstance(value, _Value):
        return f"v{value.number}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_said(part, names) for part in value)}]"
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    name = f"c{len(names)}"
    names[name] = value
    return name
