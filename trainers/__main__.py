"""Train without a page: `python -m trainers run.toml`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, StudioError
from trainers import events
from trainers.config import TrainConfig, load_config
from trainers.events import TrainEvent

_EVERY_SECONDS = 2.0


def main(
    argv: Sequence[str] | None = None, *, named: Callable[[str], Mapping[str, str]] | None = None
) -> int:
    """Run a training from the command line; return the exit code.

    named: the settings of `run` that a base's name stands for, where there is a list of names; the file's
    own go first.

    0: the adapter is written. 2: one line on standard error says what is wrong. 130: stopped by Ctrl-C,
    with a checkpoint.
    """
    parser = _Parser(
        prog="python -m trainers" if named is None else "pigment train",
        description="Teach a base a subject or a style. Run again to go on where it stopped.",
    )
    parser.add_argument("config", type=Path, help="a TOML file; see trainers/settings.py for its fields")
    parser.add_argument("--fresh", action="store_true", help="start anew, removing what the run left before")
    parser.add_argument("--json", action="store_true", help="print the events as JSON, one a line")
    try:
        arguments = parser.parse_args(argv)
        config = load_config(arguments.config)
        if named is not None:
            found = named(config.run.base).items()
            open_to = {key: text for key, text in found if key == "base" or not getattr(config.run, key)}
            config = config.model_copy(update={"run": config.run.model_copy(update=open_to)})
        run(config, fresh=arguments.fresh, as_json=arguments.json)
    except StudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # the log or the run folder: full, gone, or not ours
        what = f"{error.strerror or error} ({error.filename})"
        print(f"error: {what}; see to it and run again", file=sys.stderr)
        return StudioError.exit_code
    except KeyboardInterrupt:
        print("stopped; run the same command to go on", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see {self.prog} --help")


def run(config: TrainConfig, *, fresh: bool = False, as_json: bool = False) -> None:
    """Train `config`, print its events and append them to the run folder's log.

    Raises: StudioError as `trainers.loop.train` does.
    """
    from trainers.loop import train

    last = 0.0
    training = train(config, resume=not fresh)
    try:
        for event in training:
            events.append(config.run.output, event)
            if as_json:
                print(json.dumps(event.as_dict(), ensure_ascii=False), flush=True)
            elif event.kind != "step" or time.monotonic() - last > _EVERY_SECONDS:
                last = time.monotonic()
                print(line(event, config.run.output), flush=True)
    finally:
        training.close()


def line(event: TrainEvent, folder: Path) -> str:
    """An event as one line for people."""
    progress = f"[{event.step}/{event.total}] "
    if event.kind == "step":
        rate = 1.0 / max(event.data["seconds"], 1e-9)
        return f"{progress}{event.message}, {rate:.1f} steps/s"
    if event.kind == "warning":
        return f"{progress}warning: {event.message}"
    if event.kind == "done":
        return f"{progress}{event.message}: {folder / event.data['adapter']}"
    return f"{progress}{event.message}"


if __name__ == "__main__":
    sys.exit(main())
