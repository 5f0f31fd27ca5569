"""Every form, family and method: what is written, other libraries load; what is wrong, is noticed.

The whole table, with figures, is `make conformance`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import export
from pipelines.adapter import Adapter
from pipelines.base import Base, load_base
from pipelines.bases.source import open_source
from pipelines.bases.writing import write_base
from pipelines.conformance import check_file
from pipelines.elsewhere import LIBRARIES
from pipelines.errors import AdapterError
from pipelines.export import export_adapter
from pipelines.formats import read_adapter, write_adapter
from pipelines.methods import METHODS
from pipelines.reference import reference_delta
from tests.bench.conformance import checked, combinations, fitting_modules
from tests.pipelines.making import BESIDE, ON_NORMS, WITHOUT_DELTA, random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, save_tiny_pipeline, target_modules, weights_of


@pytest.fixture(scope="module")
def bases(tiny_folders: dict[str, Path]) -> dict[str, Base]:
    return {family: load_base(folder, device="cpu") for family, folder in tiny_folders.items()}


@pytest.mark.parametrize(
    ("family", "form", "method", "as_lora"), list(combinations(short=True)), ids=lambda value: str(value)
)
def test_what_is_written_other_libraries_load(
    bases: dict[str, Base], tmp_path: Path, family: str, form: str, method: str, as_lora: bool
) -> None:
    base = bases[family]
    adapter = random_adapter_of(base, method, fitting_modules(base, form, method))
    report = checked(base, adapter, form, tmp_path, as_lora)
    assert report.keys_matched == report.keys_written == report.keys_expected > len(adapter.factors) // 2
    loads = form in LIBRARIES and method not in WITHOUT_DELTA
    assert report.loaded_by == (LIBRARIES[form].name if loads else None)
    if loads:
        # A kohya file without any out_proj of a text encoder gets an empty one, see `kohya.anchored`.
        empty = len(base.family.text_encoders) if form == "kohya" and method not in ON_NORMS else 0
        assert report.loaded_modules == report.modules
        assert len(adapter.factors) <= report.modules <= len(adapter.factors) + empty
        assert report.psnr_db is not None and report.psnr_db >= 45
    if as_lora:
        # The rank is above what any of these layers needs.
        assert report.lora_error is not None and report.lora_error < 1e-5
    assert base.holder is None


def test_every_method_can_be_taken_elsewhere() -> None:
    """A form that another library reads holds it, or plain LoRA does."""
    forms = {(method, form) for _, form, method, _ in combinations()}
    for method in METHODS:
        elsewhere = any((method, form) in forms for form in LIBRARIES)
        assert elsewhere == (method not in BESIDE), method


TELLING = {
    "lora": ".alpha", "dora": ".dora_scale", "loha": ".alpha", "lokr": ".lokr_w2", "ia3": ".weight",
    "locon": ".lora_mid.weight", "full": ".diff", "norm": ".w_norm",
}  # fmt: skip


@pytest.mark.parametrize("method", TELLING)
def test_the_formulas_are_independent_and_notice_a_wrong_number(
    tiny_base: Base, tmp_path: Path, method: str
) -> None:
    adapter = random_adapter_of(tiny_base, method)
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, "lycoris", "fp32")
    good = check_file(adapter, path, "lycoris", tiny_base)
    assert good.independent and good.worst < 1e-5
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(TELLING[method]))
    save_file({**tensors, key: tensors[key] * 1.5}, path)
    assert check_file(adapter, path, "lycoris", tiny_base).worst > 1e-2


def test_a_wrong_bias_is_noticed(tiny_base: Base, tmp_path: Path) -> None:
    adapter = random_adapter_of(tiny_base, "norm")
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, "lycoris", "fp32")
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(".b_norm"))
    save_file({**tensors, key: tensors[key] * 1.5}, path)
    assert check_file(adapter, path, "lycoris", tiny_base).worst > 1e-2


def test_a_formula_that_isnt_known_is_none() -> None:
    assert reference_delta({"oft_R.weight": torch.ones(2, 2)}, None) is None
    assert reference_delta({"weight": torch.ones(2), "on_input": torch.zeros(1)}, None) is None


@pytest.mark.parametrize("form", ["peft", "lycoris", "pigment"])
def test_a_tampered_file_of_any_form_is_not_kept(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def tampering(adapter: Adapter, path: Path, format: str, dtype: str) -> str:
        sha256 = write_adapter(adapter, path, format, dtype)
        file = path if path.is_file() else next(path.glob("unet/*.safetensors"))
        tensors = load_file(file)
        first = sorted(key for key in tensors if tensors[key].ndim > 1)[0]
        save_file({**tensors, first: tensors[first] * 1.01}, file)
        return sha256

    adapter = random_adapter_of(tiny_base, "loha", target_modules(tiny_base))
    monkeypatch.setattr(export, "write_adapter", tampering)
    before = weights_of(tiny_base)
    with pytest.raises(AdapterError, match="nothing was kept"):
        checked(tiny_base, adapter, form, tmp_path, False)
    assert list(tmp_path.iterdir()) == []
    assert_unchanged(tiny_base, before)


def _refusing(*_: object) -> Path:
    raise OSError(28, "No space left on device")


def test_an_older_folder_is_replaced_whole_or_not_at_all(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = random_adapter_of(tiny_base, "lora", target_modules(tiny_base))
    first = export_adapter(adapter, tmp_path / "folder", "peft")
    second = export_adapter(adapter, tmp_path / "folder", "peft", "fp32")
    assert second.bytes > first.bytes
    (tmp_path / "folder" / "note.txt").write_text("somebody's own")
    with pytest.raises(AdapterError, match="holds more than an adapter"):
        export_adapter(adapter, tmp_path / "folder", "peft")
    assert (tmp_path / "folder" / "note.txt").exists()
    with pytest.raises(AdapterError, match="names no folder"):
        export_adapter(adapter, Path(), "peft")
    monkeypatch.setattr(Path, "replace", _refusing)
    (tmp_path / "folder" / "note.txt").unlink()
    with pytest.raises(AdapterError, match="can't be written"):
        export_adapter(adapter, tmp_path / "folder", "peft")
    assert read_adapter(tmp_path / "folder").factors.keys() == adapter.factors.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_method_that_a_form_cannot_hold_is_refused_with_the_way_out(
    tiny_base: Base, tmp_path: Path
) -> None:
    adapter = random_adapter_of(tiny_base, "loha", target_modules(tiny_base))
    with pytest.raises(AdapterError, match="plain LoRA"):
        export_adapter(adapter, tmp_path / "a.safetensors", "kohya", base=tiny_base)
    report = export_adapter(adapter, tmp_path / "a.safetensors", "kohya", base=tiny_base, as_lora=2)
    assert report.lora_error is not None and 0.05 < report.lora_error < 1
    assert "as plain LoRA" in report.as_text()
    assert report.loaded_modules == len(adapter.factors)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("q_proj",), ("k_proj", "fc1")])
def test_diffusers_reads_a_kohya_file_without_out_proj(
    tiny_sdxl: Base, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    """It would leave q, k and v out, or refuse the file, but for an empty out_proj per text encoder."""
    modules = [name for name in tiny_sdxl.modules() if name.endswith(targets)]
    adapter = random_adapter_of(tiny_sdxl, "lora", modules)
    report = export_adapter(adapter, tmp_path / "a.safetensors", "kohya", base=tiny_sdxl)
    assert report.loaded_modules == report.modules == len(modules) + 2
    back = read_adapter(tmp_path / "a.safetensors")
    added = back.factors.keys() - adapter.factors.keys()
    assert len(added) == 2 and all(not back.factors[module].delta().any() for module in added)


def test_learned_words_are_checked_by_diffusers(tiny_sdxl: Base, tiny_base: Base, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for base in (tiny_base, tiny_sdxl):
        vectors = {
            name: torch.randn(2, encoder.config.hidden_size, generator=generator) * 0.05
            for name, encoder in base.text_encoders().items()
        }
        adapter = Adapter(name="zwx", tokens={"zwx": vectors}, family=base.family.id)
        report = export_adapter(adapter, tmp_path / "zwx.safetensors", "embedding", "fp32", base)
        assert report.loaded_modules == report.modules == len(vectors)
        assert report.loaded_error is not None and report.loaded_error < 1e-6
        assert report.psnr_db is not None and report.psnr_db >= 45


@pytest.mark.parametrize("inpainting", [False, True])
def test_a_base_of_one_file_or_for_inpainting_checks_exports_too(tmp_path: Path, inpainting: bool) -> None:
    folder = save_tiny_pipeline(tmp_path / "tiny", unet={"in_channels": 9} if inpainting else None)
    path = tmp_path / "base.safetensors"
    write_base(open_source(folder), path, layout="file")
    base = load_base(path, device="cpu")
    again = base.again()
    assert torch.equal(again.unet.conv_in.weight, base.unet.conv_in.weight)
    assert again.unet.conv_in.weight.data_ptr() != base.unet.conv_in.weight.data_ptr()
    adapter = random_adapter(base, target_modules(base))
    report = export_adapter(adapter, tmp_path / "a.safetensors", "kohya", base=base)
    assert report.loaded_modules == report.modules
    assert inpainting or (report.psnr_db is not None and report.psnr_db >= 45)
