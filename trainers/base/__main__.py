"""`python -m trainers.base build|measure`: make the embedded base, or measure one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pipelines.errors import StudioError

PARTS = ("drawing", "towers", "speed")  # as in measure.py, which takes seconds to import


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m trainers.base", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="train a base; run again with the same --out to resume")
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the base comes to stand")
    make.add_argument("--minutes", type=float, required=True, help="training time of all stages together")
    make.add_argument(
        "--from", dest="source", type=Path, metavar="BASE", help="a finished base to go on from"
    )
    make.add_argument("--processes", type=int, default=2, help="one thread each (default 2)")
    make.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    make.add_argument("--variants", type=int, default=240, help="cached pictures per subject (default 240)")
    make.add_argument("--size", type=int, default=64, help="side in pixels of a base made anew (default 64)")
    make.add_argument(
        "--decoder-minutes",
        type=float,
        default=0.0,
        help="with --from: train the decoder on first (default 0)",
    )
    make.add_argument(
        "--new-subject-weight",
        type=float,
        default=1.0,
        help="how much oftener the subjects added since the first run come up (default 1)",
    )
    make.add_argument("--seed", type=int, default=0)
    test = commands.add_parser("measure", help="measure a finished base anew and write its quality.json")
    test.add_argument("folder", type=Path)
    test.add_argument("--guidance", type=float, default=3.0)
    test.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure only these parts anew")
    test.add_argument(
        "--classifier",
        type=Path,
        metavar="FILE",
        help="keep the trained classifier here, or take it from here",
    )
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; exit code 2 and one line for what a person can mend."""
    options = parser().parse_args(argv)
    try:
        if options.command == "build":
            from trainers.base.build import BuildPlan, build

            if options.minutes <= 0 or options.processes < 1:
                raise StudioError("--minutes must be above 0 and --processes at least 1")
            plan = {k: v for k, v in vars(options).items() if k != "command"}
            build(BuildPlan(**plan), say=lambda line: print(line, flush=True))
        else:
            from trainers.base.card import write_card
            from trainers.base.measure import measure

            place = options.folder.name if options.folder.is_absolute() else options.folder.as_posix()
            command = f"python -m trainers.base measure {place} --guidance {options.guidance:g}"
            figures = measure(
                options.folder,
                command=command,
                only=options.only,
                classifier_file=options.classifier,
                guidance=options.guidance,
            )
            write_card(options.folder)
            print(json.dumps(figures, indent=1))
    except StudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
