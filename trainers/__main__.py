"""Train without a page: `python -m trainers run.toml`.

On several cards or nodes: `accelerate launch -m trainers run.toml`, or
`torchrun --nproc_per_node 2 -m trainers run.toml`; on CPUs torchrun alone, since accelerate 1.15 starts one
process there whatever `--num_processes` says.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from typing import Any

from pipelines.errors import StudioError
from trainers import bundle_again, events
from trainers.arguments import config_of, parser
from trainers.bundle_again import Again
from trainers.bundle_format import Bundle
from trainers.config import TrainConfig
from trainers.listeners import heard
from trainers.processes import ALONE, Processes, joined, report
from trainers.progress import Progress, write
from trainers.room import disk_full

Named = Callable[[str], Mapping[str, str]]

# What a process that isn't the first waits before it ends for a reason that all of them have found.
_FIRST_SPEAKS_SECONDS = 10.0


def main(argv: Sequence[str] | None = None, *, named: Named | None = None) -> int:
    """Run a training from the command line; return the exit code.

    named: the settings of `run` that a base's name stands for, where there is a list of names; the file's
    own go first.

    0: the adapter is written. 2: one line on standard error says what is wrong. 130: stopped by Ctrl-C,
    with a checkpoint.
    """
    try:
        arguments = parser("python -m trainers" if named is None else "pigment train").parse_args(argv)
        bundle = bundle_again.opened(arguments)
        config = _with_named(config_of(arguments), named, bundle)
        if arguments.doctor:
            return doctor(config, as_json=arguments.json)
        with joined(config.run.device) as processes:
            return _attempt(config, arguments, processes, bundle)
    except KeyboardInterrupt:
        print("stopped before anything was learned", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {_system_said(error)}", file=sys.stderr)
        return StudioError.exit_code
    except StudioError as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(_FIRST_SPEAKS_SECONDS)  # the launcher ends this one when the first has spoken
        else:
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _attempt(
    config: TrainConfig, arguments: argparse.Namespace, processes: Processes, bundle: Bundle | None = None
) -> int:
    """Run, and of all processes let one say why it ended; return the exit code."""
    again = None if bundle is None else Again(bundle=bundle, config=config, anyway=arguments.anyway)
    try:
        if again is not None:
            lines = again.check(processes.size)
            if lines and processes.main:
                print("\n".join(lines), file=sys.stderr)
        run(config, fresh=arguments.fresh, as_json=arguments.json, processes=processes, again=again)
    except StudioError as error:
        if report(error):
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `… | head`: who reads has had enough
        with suppress(OSError):  # where standard output is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("stopped, since nobody reads this any more; run the same command to go on", file=sys.stderr)
        return 130
    except OSError as error:  # the log or the run folder: full, gone, or not ours
        said = StudioError(disk_full(error) or _system_said(error))
        if report(said):
            print(f"error: {said}", file=sys.stderr)
        return said.exit_code
    except KeyboardInterrupt:
        if processes.main:
            print("stopped; run the same command to go on", file=sys.stderr)
        return 130
    return 0


def _system_said(error: OSError) -> str:
    """What the system refused, in one line."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}; see to it and run again"


def _with_named(config: TrainConfig, named: Named | None, bundle: Bundle | None = None) -> TrainConfig:
    """The config with the settings that its base's name stands for, where it doesn't say them itself.

    A bundle's base that isn't here is said with what else is missing.
    """
    if named is None:
        return config
    try:
        found = named(config.run.base).items()
    except StudioError:
        if bundle is None or config.run.base != bundle.base.name:
            raise
        return config
    open_to = {key: text for key, text in found if key == "base" or not getattr(config.run, key)}
    return config.model_copy(update={"run": config.run.model_copy(update=open_to)})


def doctor(config: TrainConfig, *, as_json: bool = False) -> int:
    """Say what is to be mended in a config's pictures, one line each; return 0 whatever is found."""
    from trainers.doctor import examine

    findings = examine(config.data, config.run)
    for finding in findings:
        said = json.dumps(asdict(finding), ensure_ascii=False) if as_json else finding.line()
        write(said + "\n", sys.stdout)
    if not findings and not as_json:
        write("nothing to mend\n", sys.stdout)
    return 0


def run(
    config: TrainConfig,
    *,
    fresh: bool = False,
    as_json: bool = False,
    processes: Processes = ALONE,
    again: Again | None = None,
) -> None:
    """Train `config`, print its events and append them to the run folder's log.

    again: where it is made again from a bundle, to be held against that.

    Ctrl-C and SIGTERM pause it between two steps; a second Ctrl-C ends it at once.

    Raises: StudioError as `trainers.loop.train` does. KeyboardInterrupt when it was paused.
    """
    from pipelines.bases.libraries import load_libraries

    load_libraries()
    from trainers.loop import train

    fresh = again.ready(fresh) if again is not None and processes.main else fresh
    training = train(config, resume=not fresh)
    training = training if again is None else again.held(training)
    if not processes.main:
        with interruptions(quiet=True) as asked:
            _follow(training, processes, asked, lambda event: None)
        return
    progress = Progress(sys.stdout, config.run.output, as_json=as_json)

    def take(event: events.TrainEvent) -> None:
        events.append(config.run.output, event)
        progress.show(event)

    try:
        with interruptions() as asked:
            _follow(heard(training, config), processes, asked, take)
    except StudioError:
        progress.conclude()
        raise
    finally:
        progress.close()


def _follow(
    training: Iterator[events.TrainEvent],
    processes: Processes,
    asked: Callable[[], bool],
    take: Callable[[events.TrainEvent], None],
) -> None:
    """Take a run's events until its end, or until any process is asked to pause."""
    closed: Any = training  # a generator
    with closing(closed):
        for event in training:
            take(event)
            # Only steps come in all processes alike.
            if event.kind == "step":
                pause = processes.any(asked())
            else:
                pause = processes.size == 1 and asked()
            if pause:
                raise KeyboardInterrupt


@contextmanager
def interruptions(quiet: bool = False) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM ask for a pause, for a while; gives whether one was asked for.

    A second Ctrl-C is a KeyboardInterrupt at once. quiet: don't say on standard error what was asked for.
    Outside of the main thread signals go where they went.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def handle(number: int, frame: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        if not quiet:
            print("\npausing after this step; Ctrl-C once more ends it at once", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
