"""The command line of a training: a TOML file, a folder of pictures, or both, and what goes before them."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, nearest
from trainers.bundle_again import values_of
from trainers.bundle_format import is_bundle, parse_bundle
from trainers.config import (
    FIELDS,
    NAMED_OR_PATH,
    PATHS,
    TrainConfig,
    config_from,
    kinds_of,
    located,
    named_or_located,
    read_toml,
)
from trainers.presets import MEMORY_SIZES, PRESET_NAMES, SIZES
from trainers.wording import prompts


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser; what it reads goes to `config_of`."""
    made = _Parser(
        prog=prog,
        description="Teach a base a subject or a style. Run again to go on where it stopped.",
        epilog=f"example: {prog} --pictures photos --trigger zib --class robot --preset standard",
    )
    made.add_argument(
        "config",
        type=Path,
        nargs="?",
        help="a TOML file (its tables are trainers/settings/), a run's config.json, or a bundle "
        "(bundle.toml, or a zip) whose adapter is made again",
    )
    short = made.add_argument_group("without a file, or before what it says")
    short.add_argument("--pictures", type=Path, metavar="DIR", help="the pictures to learn from")
    short.add_argument("--trigger", metavar="WORD", help="the word that will call what is learned")
    short.add_argument("--class", dest="class_name", metavar="NOUN", help="what a subject is, such as robot")
    short.add_argument("--kind", metavar="KIND", help="subject (default) or style")
    short.add_argument("--base", metavar="BASE", help="what is taught; default: the embedded base")
    short.add_argument("--output", type=Path, metavar="DIR", help="the run's folder; default: runs/TRIGGER")
    help_length = f"how long to learn: {', '.join(PRESET_NAMES)}; without a file the first"
    short.add_argument("--preset", metavar="NAME", help=help_length)
    short.add_argument("--size", metavar="SIZE", help=f"how much it holds: {', '.join(SIZES)}")
    sizes = ", ".join(map(str, MEMORY_SIZES))
    short.add_argument("--memory", type=int, metavar="GB", help=f"the card's memory: {sizes}; with --family")
    short.add_argument("--family", metavar="NAME", help="the base's, for --memory: sd15, sd2, sdxl")
    short.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings",
        help="any setting, such as optimizer.learning_rate=1e-4; nothing after = is its empty value; may be "
        "given again",
    )  # fmt: skip
    made.add_argument("--doctor", action="store_true", help="look the pictures over, and learn nothing")
    made.add_argument(
        "--anyway",
        action="store_true",
        help="with a bundle: whatever differs, though another file comes of it",
    )
    made.add_argument("--fresh", action="store_true", help="start anew, removing what the run left before")
    made.add_argument("--json", action="store_true", help="print the events as JSON, one a line")
    return made


def config_of(arguments: argparse.Namespace) -> TrainConfig:
    """Make the config that a command line asks for. Raises: ConfigError, one line."""
    if arguments.config is None and arguments.pictures is None:
        raise ConfigError("nothing says what to learn; give a TOML file, or --pictures and --trigger")
    values: dict[str, Any] = {} if arguments.config is None else _read(arguments.config)
    folder = Path.cwd() if arguments.config is None else arguments.config.parent
    for section in ("data", "run"):
        values.setdefault(section, {})
    _preset(values, arguments)
    for path, value in (*_short(values, arguments), *map(_setting, arguments.settings)):
        section, name = path
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"setting {section!r} is {table!r}, expected a table of settings")
        # The file's folders are relative to the file, the command line's to where it is given.
        if path in PATHS and value is not None:
            value = str(located(str(value), Path.cwd(), ".".join(path))) if str(value).strip() else ""
        elif path in NAMED_OR_PATH and value.strip():
            value = named_or_located(value, Path.cwd(), ".".join(path))
        table[name] = value
    return config_from(values, folder)


def _read(path: Path) -> dict[str, Any]:
    """The plain values of a file: of a bundle, those of its config."""
    values = read_toml(path)
    return values_of(parse_bundle(values, path.name), path) if is_bundle(values) else values


def _preset(values: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Put what the command line says of a preset before what the file says."""
    said = {name: getattr(arguments, name) for name in ("size", "memory", "family")}
    said["name"] = arguments.preset
    said = {name: value for name, value in said.items() if value is not None}
    if arguments.config is None:
        said = {"name": PRESET_NAMES[0], **said}
    if said:
        before = values.get("preset", {})
        values["preset"] = {**(before if isinstance(before, dict) else {"name": before}), **said}


def _short(values: dict[str, Any], arguments: argparse.Namespace) -> list[tuple[tuple[str, str], Any]]:
    """The settings of the short way, by (section, name)."""
    given = {
        ("data", "instance_images"): arguments.pictures,
        ("data", "trigger"): arguments.trigger,
        ("data", "kind"): arguments.kind,
        ("run", "base"): arguments.base,
        ("run", "output"): arguments.output,
    }
    data = values["data"] if isinstance(values["data"], dict) else {}
    trigger, kind = arguments.trigger or data.get("trigger"), arguments.kind or data.get("kind", "subject")
    if arguments.config is None and not trigger:
        raise ConfigError("--trigger is missing; give a word that will call what is learned, such as zib")
    if arguments.class_name and kind == "style":
        raise ConfigError("--class has no effect with --kind style; leave it out")
    if isinstance(trigger, str) and (arguments.class_name or "instance_prompt" not in data):
        instance, of_class = prompts(kind, trigger, arguments.class_name or "")
        given["data", "instance_prompt"] = instance
        given["data", "class_prompt"] = of_class or None
    if arguments.config is None and arguments.output is None:
        # A trigger may hold what no folder's name does.
        name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in str(trigger))
        given["run", "output"] = Path("runs") / name
    return [(path, value) for path, value in given.items() if value is not None]


def _setting(text: str) -> tuple[tuple[str, str], Any]:
    """Read "section.field=value", or "field=value"; a value that isn't TOML is a text."""
    path, equals, said = text.partition("=")
    section, _, name = path.strip().rpartition(".")
    if not equals or not name:
        raise ConfigError(f"--set {text!r} isn't FIELD=VALUE, such as run.steps=300")
    known = {f"{FIELDS[one]}.{one}": one for one in FIELDS}
    if name not in FIELDS or section not in ("", FIELDS[name]):
        near = nearest(path.strip(), known) if section else nearest(name, FIELDS)
        near = f"; did you mean '{FIELDS[name]}.{name}'?" if name in FIELDS else near
        raise ConfigError(f"--set: unknown setting {path.strip()!r}{near}")
    return (FIELDS[name], name), _value(FIELDS[name], name, said.strip())


def _value(section: str, name: str, said: str) -> Any:
    """Read a setting's text as the setting is meant: a text needs no quotes, a list of one no brackets."""
    kinds = kinds_of(section, name)
    try:
        value: Any = tomllib.loads(f"value = {said}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = None if not said and type(None) in kinds else said
    if tuple in kinds:
        return value if isinstance(value, list) else [value] if said else []
    return said if kinds & {str, Path} and value is not None and not isinstance(value, str) else value
