"""Weights by memory map: what is shared with the file, what is converted, what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipelines.bases.layout import Piece
from pipelines.bases.reading import ALIGNMENT, Stored, TensorFile, fill, state_of
from pipelines.bases.streaming import Planned, write_stream
from pipelines.errors import BaseError


class Small(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("position_ids", torch.arange(4), persistent=False)


def _saved(tmp_path: Path, module: nn.Module, dtype: torch.dtype = torch.float32) -> Path:
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    save_file(tensors, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def _empty(width: int = 3) -> Small:
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return Small(width)


CPU = torch.device("cpu")


def test_a_module_is_filled_with_what_was_saved(tmp_path: Path) -> None:
    module, empty = Small(), _empty()
    fill(empty, state_of([_saved(tmp_path, module)]), CPU, torch.float32, "m")
    for name, value in module.state_dict().items():
        assert torch.equal(value, empty.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in empty.parameters())
    assert empty.get_buffer("position_ids").tolist() == [0, 1, 2, 3]


def _aligned(tmp_path: Path, module: nn.Module) -> Path:
    tensors, path = dict(module.named_parameters()), tmp_path / "aligned.safetensors"
    planned = {name: Planned(value.dtype, tuple(value.shape)) for name, value in tensors.items()}
    write_stream(path, planned, lambda name: tensors[name].detach(), {})
    return path


def test_the_same_precision_is_the_files_own_memory_and_writes_stay_here(tmp_path: Path) -> None:
    from accelerate import init_empty_weights

    with init_empty_weights():
        empty: Any = nn.ModuleDict({"linear": nn.Linear(16, 3)})
    path = _aligned(tmp_path, nn.ModuleDict({"linear": nn.Linear(16, 3)}))
    before, state = path.read_bytes(), state_of([path])
    fill(empty, state, CPU, torch.float32, "m")
    assert empty["linear"].weight.data_ptr() == state["linear.weight"].view().data_ptr()
    empty["linear"].weight.data.zero_()
    state["linear.weight"].release()  # what a module uses isn't given back
    assert not empty["linear"].weight.any() and path.read_bytes() == before
    assert state_of([path])["linear.weight"].view().abs().sum() > 0


def test_weights_lie_as_they_would_in_pytorchs_memory(tmp_path: Path) -> None:
    path, empty = _saved(tmp_path, Small()), _empty()
    fill(empty, state_of([path]), CPU, torch.float32, "m")
    assert all(parameter.data_ptr() % ALIGNMENT == 0 for parameter in empty.parameters())


def test_another_precision_is_converted_and_whole_numbers_are_left(tmp_path: Path) -> None:
    module, empty = Small(), _empty()
    fill(empty, state_of([_saved(tmp_path, module, torch.float16)]), CPU, torch.bfloat16, "m")
    assert torch.equal(empty.linear.weight, module.linear.weight.half().bfloat16())
    assert empty.state_dict()["norm.num_batches_tracked"].dtype == torch.int64


def test_tensors_at_odd_addresses_are_read_whole(tmp_path: Path) -> None:
    numbers, header = torch.arange(5.0), {"a": {"dtype": "F32", "shape": [5], "data_offsets": [1, 21]}}
    header = {"odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, **header}
    raw = json.dumps(header).encode()
    (tmp_path / "odd.safetensors").write_bytes(
        struct.pack("<Q", len(raw)) + raw + b"\x07" + numbers.numpy().tobytes()
    )
    file = TensorFile(tmp_path / "odd.safetensors")
    assert torch.equal(file.view("a"), numbers) and file.view("odd").tolist() == [7]


def test_pieces_are_cut_turned_and_shaped(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    save_file({"w": whole}, tmp_path / "w.safetensors")
    file = TensorFile(tmp_path / "w.safetensors")
    for piece, expected in [
        (Piece("w", rows=(2, 4)), whole[2:4]),
        (Piece("w", transposed=True), whole.T),
        (Piece("w", shape=(6, 2, 2)), whole.reshape(6, 2, 2)),
    ]:
        stored = Stored(file, piece)
        assert torch.equal(stored.view(), expected) and stored.shape == tuple(expected.shape)


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    save_file({"big": torch.arange(100_000.0), "next": torch.ones(5)}, tmp_path / "b.safetensors")
    file = TensorFile(tmp_path / "b.safetensors")
    view = file.view("big")
    view.zero_()
    file.release("big")
    assert view[50_000] == 50_000 and file.view("next").sum() == 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("linear.bias"), "lacks 1 weights, for instance linear.bias"),
        (lambda tensors: tensors.update(other=torch.ones(1)), "no place for, for instance other"),
        (
            lambda tensors: tensors.update({"linear.bias": torch.ones(4)}),
            r"linear.bias of shape \(4,\), its config says \(3,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, says: str, tmp_path: Path) -> None:
    tensors = dict(Small().state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(BaseError, match=says):
        fill(_empty(), state_of([tmp_path / "m.safetensors"]), CPU, torch.float32, "m")


def test_position_ids_of_older_files_are_let_by(tmp_path: Path) -> None:
    tensors = {**Small().state_dict(), "position_ids": torch.arange(4)}
    save_file(tensors, tmp_path / "m.safetensors")
    fill(_empty(), state_of([tmp_path / "m.safetensors"]), CPU, torch.float32, "m")
