"""Starts the page: `python app.py [--host H] [--port N] [--workspace DIR] [--base pocket|DIR]`."""

import sys

from studio.cli import main

if __name__ == "__main__":
    sys.exit(main(["studio", *sys.argv[1:]]))
