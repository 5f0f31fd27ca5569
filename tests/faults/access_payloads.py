"""What is written in the place of an id, a name or a file by who wants something that isn't theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

UP = 8  # folders that a traversal climbs; more than lead to the root of a file system are no harm
FULL_WIDTH = str.maketrans({".": "\uff0e", "/": "\uff0f"})
Way = Callable[[str], str]
"""A path → how it is written, not yet percent-encoded for the wire (see `wired`)."""


def _up(path: str) -> str:
    return "../" * UP + path.lstrip("/")


RAW: dict[str, Way] = {
    "as it is": lambda path: path,
    "without its first slash": lambda path: path.lstrip("/"),
    "climbing": _up,
    "climbing by windows' slashes": lambda path: _up(path).replace("/", "\\"),
    "climbing by both": lambda path: _up(path).replace("../", "..\\/"),
    "climbing past a filter": lambda path: _up(path).replace("../", "....//"),
    "climbing past semicolons": lambda path: _up(path).replace("../", "..;/"),
    "climbing out of a folder that is there": lambda path: "images/" + _up(path),
    "with dots between": lambda path: path.replace("/", "/./"),
    "with slashes doubled": lambda path: path.replace("/", "//"),
    "ending in NUL": lambda path: f"{path}\0.png",
    "ending in a dot": lambda path: f"{path}.",
    "ending in a space": lambda path: f"{path} ",
    "ending as a stream of its own": lambda path: f"{path}::$DATA",
    "file address": lambda path: f"file://{path}",
    "file address of a host": lambda path: f"file://localhost{path}",
    "drive letter": lambda path: "C:" + path.replace("/", "\\"),
    "drive letter and slash": lambda path: f"C:{path}",
    "UNC": lambda path: "\\\\localhost\\c$" + path.replace("/", "\\"),
    "UNC by slashes": lambda path: f"//localhost{path}",
    "long UNC": lambda path: "\\\\?\\" + path.replace("/", "\\"),
    "full width": lambda path: _up(path).translate(FULL_WIDTH),
    "very long": lambda path: "./" * 2000 + _up(path),
    "of the process": lambda path: f"/proc/self/root{path}",
    "of the working folder": lambda path: f"/proc/self/cwd/{_up(path)}",
    "at home": lambda path: f"~/{_up(path)}",
    "after a line's end": lambda path: f"x\r\n{path}",
    "as an option": lambda path: f"--{path}",
    "in the place of a template": lambda path: "{{" + path + "}}",
    "of a variable": lambda path: f"$PWD/{_up(path)}",
}
CODED: dict[str, Way] = {
    "percent": lambda path: "".join(f"%{byte:02x}" for byte in _up(path).encode()),
    "percent twice": lambda path: _up(path).replace(".", "%252e").replace("/", "%252f"),
    "percent three times": lambda path: _up(path).replace(".", "%25252e").replace("/", "%25252f"),
    "overlong": lambda path: _up(path).replace(".", "%c0%ae").replace("/", "%c0%af"),
    "overlong by three": lambda path: _up(path).replace(".", "%e0%80%ae").replace("/", "%e0%80%af"),
    "unicode escape": lambda path: _up(path).replace(".", "%u002e").replace("/", "%u2215"),
    "slashes only": lambda path: _up(path).replace("/", "%2f"),
    "windows' slashes": lambda path: _up(path).replace("/", "%5c"),
    "dots only": lambda path: _up(path).replace(".", "%2e"),
    "absolute": lambda path: path.replace("/", "%2f"),
    "NUL": lambda path: path.replace("/", "%2f") + "%00.png",
}
"""Ways that are on the wire as they are written here."""
WHOLE, SOME = 5, ("as it is", "climbing", "percent", "absolute")
ODD = (
    "", ".", "..", "...", "/", "//", "\\", "*", "?", "%", "%zz", "~", "-", "--help", "nul", "CON", "AUX.png",
    "\x7f", "\u202egnp.exe", "\u0130", "\ufeff", "𝟎", "A" * 300, "A" * 9000, "0", "-1", "1e400", "NaN",
    "null",
    "true", "[]", "{}", "' OR 1=1 --", '" OR ""="', "'; DROP TABLE jobs; --", "<script>alert(1)</script>",
    "${7*7}", "{{7*7}}", "$(id)", "`id`", "|id", "%s%s%s%n", "http://127.0.0.1:1/", "//evil.example/x",
    "javascript:alert(1)", "data:text/html,x", "\r\nSet-Cookie: pigment=x", "\ud800", "__proto__",
    "constructor",
)  # fmt: skip


def wired(text: str) -> str:
    """Text as a part of a request's target: only what can't stand there is percent-encoded."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="/\\:;.,~!$&'()*+=@-_[]{}|^`")


def payloads(targets: Sequence[Path | str], ids: Sequence[str]) -> list[tuple[str, str]]:
    """(as text, as on the wire) of everything that is tried.

    targets: files that nobody may have, the first written in every way, those after `WHOLE` in some. ids: of
    others' things.
    """
    found: dict[tuple[str, str], None] = {}
    for number, target in enumerate(map(str, targets)):
        for name, way in RAW.items():
            if number < WHOLE or name in SOME:
                found[way(target), wired(way(target))] = None
        for name, way in CODED.items():
            if number < WHOLE or name in SOME:
                found[way(target), way(target)] = None
    for odd in (*ODD, *ids):
        found[odd, wired(odd)] = None
    return list(found)
