"""`--base` and how it is loaded: shared by all commands that look at a base."""

from __future__ import annotations

import argparse
import sys
import time
import types
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.bases.source import Source
    from studio.bases import BaseOptions

BASE_HELP = (
    "pocket (embedded, the default), a name of `pigment base list`, a diffusers folder, a .safetensors file, "
    "or a hub id (org/name)"
)
_PLACE = "place_"
PRECISIONS = ("fp32", "bf16", "fp16")


def add_base(parser: argparse.ArgumentParser) -> None:
    """`--base`, and how it is loaded."""
    group = parser.add_argument_group("the base")
    group.add_argument("--base", default=None, metavar="BASE", help=BASE_HELP)
    add_loading(group)


def add_loading(parser: Any) -> None:
    """How a base is opened, `--device`, `--precision`, and a flag for each field of Placement.

    What isn't given is None.
    """
    from pipelines.placement import Placement

    add_opening(parser)
    parser.add_argument(
        "--device", default=None, help="cpu, cuda, cuda:1, mps, xpu (default: the fastest that is there)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=None,
        help="of the base's weights (default: what suits the device)",
    )
    for name, field in Placement.model_fields.items():
        flag, help_text = f"--{name.replace('_', '-')}", _percent(field.description)
        dest = f"{_PLACE}{name}"
        kind = _plain(field.annotation)
        if kind is bool:
            parser.add_argument(
                flag, dest=dest, action=argparse.BooleanOptionalAction, default=None, help=help_text
            )
        elif get_origin(kind) is Literal:
            parser.add_argument(flag, dest=dest, choices=get_args(kind), default=None, help=help_text)
        else:
            parser.add_argument(flag, dest=dest, default=None, metavar="NAME", help=help_text)


def add_opening(parser: Any, *, vae: bool = True) -> None:
    """`--vae`, `--configs`, `--prediction-type`: what is said of a base against what it says of itself."""
    if vae:
        parser.add_argument(
            "--vae", default=None, metavar="FILE", help="another VAE: a .safetensors file, or a folder of it"
        )
    parser.add_argument(
        "--configs", default=None, metavar="DIR",
        help="of a single file: a diffusers folder whose configs it is read by (default: those in the file, "
        "or of the published models)",
    )  # fmt: skip
    parser.add_argument(
        "--prediction-type", default=None, choices=("epsilon", "v_prediction"),
        help="what its UNet predicts (default: as it says itself; some SDXL files of v say nothing)",
    )  # fmt: skip


def given_options(args: argparse.Namespace) -> list[str]:
    """The flags about a base that a command line gives, `--base` first."""
    names = ["base", "vae", "configs", "prediction_type", "device", "precision"]
    names += [name for name in vars(args) if name.startswith(_PLACE)]
    given = [name for name in names if getattr(args, name, None) is not None]
    return [f"--{name.removeprefix(_PLACE).replace('_', '-')}" for name in given]


def refuse_idle_base(args: argparse.Namespace, when: str) -> None:
    """Refuse a `--base`, or an option of its loading, that nothing would look at."""
    given = given_options(args)
    if given:
        raise ConfigError(f"{given[0]} has no effect {when}; leave it out")


def refuse_idle_placing(args: argparse.Namespace, command: str) -> None:
    """Refuse `--vae` and options of Placement for a command that compares weights and draws nothing."""
    acting = ("--base", "--configs", "--prediction-type", "--device", "--precision")
    idle = [flag for flag in given_options(args) if flag not in acting]
    if idle:
        raise ConfigError(f"{idle[0]} has no effect on {command}, which draws nothing; leave it out")


def base_options(args: argparse.Namespace) -> BaseOptions:
    """How a command line wants its base loaded.

    Raises:
        ConfigError: a device option's value isn't known.
    """
    from pydantic import ValidationError

    from pipelines.placement import Placement
    from studio.bases import BaseOptions

    placement = {
        name.removeprefix(_PLACE): value
        for name, value in vars(args).items()
        if name.startswith(_PLACE) and value is not None
    }
    try:
        Placement(**placement)
    except ValidationError as error:
        first = error.errors()[0]
        flag = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{flag}: {first['msg'].removeprefix('Value error, ')}") from None
    return BaseOptions(
        vae=None if getattr(args, "vae", None) is None else _there("--vae", args.vae),
        configs=None if args.configs is None else _there("--configs", args.configs),
        prediction_type=args.prediction_type, device=args.device, precision=args.precision,
        placement=placement,
    )  # fmt: skip


def base_path(ref: str, workspace: str | None = None) -> str:
    """A base as the whole studio understands it: "pocket", the whole path of a folder or file, a hub id."""
    return find_base(ref, workspace)[0]


def find_base(ref: str, workspace: str | None = None) -> tuple[str, dict[str, str]]:
    """What `base_path` says, and what the list keeps of how the base has to be opened.

    The workspace is opened only for a text that is neither there as a file nor a hub id.
    """
    from studio.bases import Bases, hub_id, local_ref

    found = local_ref(ref) or hub_id(ref)
    if found is not None:
        return found, {}
    from studio.workspace import Workspace

    return Bases(Workspace.open(workspace, own=False)).chosen(ref)


def chosen_base(args: argparse.Namespace, ref: str) -> tuple[str, BaseOptions]:
    """A base by what a person wrote, and how it is opened: the command line's options before the list's."""
    options = base_options(args)
    path, kept = find_base(ref, args.workspace)
    return path, options.over(kept)


def the_base(args: argparse.Namespace) -> Base:
    """Load the base that `--base` names."""
    return load(args, args.base or "pocket")


def load(args: argparse.Namespace, ref: str) -> Base:
    """Load a base by what a person wrote, as the command line's options say."""
    path, options = chosen_base(args, ref)
    return options.load(path, on_progress=FetchLine())


def open_base(args: argparse.Namespace, ref: str) -> Source:
    """Find out what a base is by what a person wrote, without loading it; a hub id is fetched."""
    path, options = chosen_base(args, ref)
    return options.open(path, on_progress=FetchLine())


class FetchLine:
    """Says on standard error how far a download is: in one line on a terminal, else every tenth of it."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._told, self._last = -1, 0.0

    def __call__(self, step: Any) -> None:
        done, now = step.done >= step.total, time.monotonic()
        share = 100 * step.done // max(step.total, 1)
        if self._terminal and (done or now - self._last >= 0.25):
            text = (
                f"\rfetching {step.repo}: {step.done / 1e6:,.0f} of {step.total / 1e6:,.0f} MB ({share} %) "
            )
            print(text, end="\n" if done else "", file=sys.stderr, flush=True)
            self._last = now
        elif not self._terminal and share // 10 > self._told:
            text = f"fetching {step.repo}: {share} % of {step.total / 1e6:,.0f} MB"
            print(text, file=sys.stderr, flush=True)
            self._told = share // 10


def _there(flag: str, ref: str) -> str:
    """A path of an option, whole. Raises: ConfigError where nothing is there."""
    from studio.commands.arguments import place

    path = place(ref)
    if not path.exists():
        raise ConfigError(f"{flag} {ref!r}: no such file or folder")
    return str(path.resolve())


def _plain(annotation: Any) -> Any:
    """A field's type without None and without what only checks it."""
    if get_origin(annotation) is types.UnionType or str(get_origin(annotation)) == "typing.Union":
        return next(_plain(one) for one in get_args(annotation) if one is not type(None))
    return annotation


def _percent(text: str | None) -> str:
    """A help text as argparse takes it."""
    return (text or "").replace("%", "%%")
