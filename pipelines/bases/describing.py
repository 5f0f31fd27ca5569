"""What a base is, told from its configs and headers; its weights are read only where its hash is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.bases.modelspec import architecture, base_title, inpainting, metadata_in, resolution
from pipelines.bases.source import Source
from pipelines.device import DTYPES


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """A base for people and for the list of bases.

    ref: what was asked for. layout: "file" or "folder". family: its id, label: its name for people.
    prediction_type: None where the file doesn't say: it is found out at loading. precisions: what each
    network's weights are stored in. parameters: numbers of each network. bytes: of the weight files.
    sha256: see `Source.sha256`, empty where it wasn't asked for. short_hash: as A1111 shows it, of one file.
    vae: where the VAE comes from. resolution: native side in pixels.
    """

    ref: str
    path: str
    layout: str
    family: str
    label: str
    architecture: str
    prediction_type: str | None
    zero_snr: bool
    inpainting: bool
    precisions: Mapping[str, str]
    parameters: Mapping[str, int]
    bytes: int
    sha256: str
    short_hash: str
    vae: str
    resolution: int
    title: str
    author: str
    license: str
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """Return it for people, one finding a line."""
        kind = self.label + (", inpainting" if self.inpainting else "")
        predicts = self.prediction_type or "told by neither tensors nor metadata; found out at loading"
        schedule = ", from pure noise" if self.zero_snr else ""
        total = sum(self.parameters.values())
        parts = ", ".join(f"{part} {count / 1e6:,.1f}" for part, count in self.parameters.items())
        lines = [
            f"{self.title}: {kind}, {self.resolution} px",
            f"path: {self.path} ({self.layout})",
            f"predicts: {predicts}{schedule}",
            f"stored in: {_one_or_each(self.precisions)}, {self.bytes:,} bytes",
            f"parameters: {total / 1e6:,.1f} million ({parts})",
            f"VAE: {self.vae}",
        ]
        lines += [f"author: {self.author}"] if self.author else []
        lines += [f"licence: {self.license}"] if self.license else []
        lines += [f"SHA-256: {self.sha256}"] if self.sha256 else []
        lines += [f"hash in A1111: {self.short_hash}"] if self.short_hash else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def describe(source: Source, *, hashed: bool = True) -> BaseInfo:
    """Say what a source is. hashed: whether its files are read for their SHA-256."""
    stated = metadata_in(source)
    files = {stored.file.path for part in source.networks for stored in source.state(part).values()}
    sha256 = source.sha256 if hashed else ""
    return BaseInfo(
        ref=source.ref,
        path=str(source.path),
        layout="file" if source.is_file else "folder",
        family=source.family.id,
        label=source.family.label,
        architecture=architecture(source),
        prediction_type=source.prediction_type,
        zero_snr=bool(source.configs["scheduler"].get("rescale_betas_zero_snr")),
        inpainting=inpainting(source),
        precisions={part: _precision(source, part) for part in source.networks},
        parameters=source.parameters,
        bytes=sum(file.stat().st_size for file in files),
        sha256=sha256,
        short_hash=sha256[:10] if source.is_file else "",
        vae="its own" if source.vae_path is None else str(source.vae_path),
        resolution=resolution(source),
        title=base_title(source),
        author=stated.get("modelspec.author", ""),
        license=stated.get("modelspec.license", ""),
        notes=(*source.notes, *_asked(source)),
    )


def _asked(source: Source) -> list[str]:
    """What was said of a base against what it says of itself."""
    notes = []
    if (folder := source.asked.get("config")) is not None:
        notes.append(f"it is read by the configs in {folder}")
    if source.asked.get("prediction_type") is not None:
        notes.append(f"that it predicts {source.prediction_type} was said when it was opened, not by itself")
    return notes


def _precision(source: Source, part: str) -> str:
    """What a network's weights are stored in, the commonest first."""
    numbers: dict[str, int] = {}
    names = {dtype: name for name, dtype in DTYPES.items()}
    for stored in source.state(part).values():
        name = names.get(stored.dtype) or str(stored.dtype).removeprefix("torch.")
        numbers[name] = numbers.get(name, 0) + 1
    return " and ".join(sorted(numbers, key=lambda name: -numbers[name]))


def _one_or_each(precisions: Mapping[str, str]) -> str:
    """One word where all networks agree."""
    if len(set(precisions.values())) == 1:
        return next(iter(precisions.values()))
    return ", ".join(f"{part} {precision}" for part, precision in precisions.items())
