"""Every place of every route where a word can be put: in its path, its query and headers, its body; and every
function of the page, by its number."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.faults.access_client import Ask, posted, upload
from tests.faults.access_payloads import wired
from tests.faults.access_things import COVER, Things

Word = tuple[str, str]
"""What is put there: as text, and as on the wire."""
API = "/gradio_api"
QUERY = (
    "path", "file", "url", "ids", "search", "page", "size", "name", "wait", "session_hash", "upload_id",
    "deep_link",
    "view", "__theme", "key",
)  # fmt: skip
HEADERS = (
    "x-gradio-user", "x-original-url", "x-rewrite-url", "x-forwarded-prefix", "x-forwarded-user", "referer",
    "range", "if-none-match", "accept", "accept-language", "user-agent", "x-gradio-server", "authorization",
)  # fmt: skip
_numbers = itertools.count()


@dataclass(frozen=True)
class Slot:
    """A place for words.

    Attributes:
        make: a word → the request.
        among: places of that name are dealt the words between them; empty: this one is put all of them.
        streams: whether its answer comes by the queue's stream.
    """

    name: str
    make: Callable[[Word], Ask]
    among: str = ""
    streams: bool = False


def routes(found: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route, of what is mounted and included as well; of a web socket "SOCKET"."""
    for route in found:
        inner = route
        while hasattr(inner, "app") and not hasattr(inner, "methods"):
            inner = inner.app
        if (included := getattr(route, "original_router", None)) is not None:
            yield from routes(included.routes, prefix)
        elif getattr(inner, "routes", None):
            yield from routes(inner.routes, prefix + route.path)
        elif type(route).__name__.endswith("WebSocketRoute"):
            yield "SOCKET", prefix + route.path
        else:
            for method in sorted(getattr(route, "methods", None) or {"GET", "POST"}):
                yield method, prefix + route.path


def _header(text: str) -> str:
    """A word as a header's value, which has no line ends (uvicorn takes none)."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", text)[:4000].strip()


def _ask(method: str, target: str) -> Ask:
    return Ask("GET", target, kind="websocket") if method == "SOCKET" else Ask(method, target)


def _usual(template: str, things: Things) -> dict[str, str]:
    """What stands in a path's places while a word is in another: somebody's things."""
    ids = things.ids
    known = {
        "image_id": ids["image"], "job_id": ids["run"], "job_ids": ids["run"], "adapter_id": ids["adapter"],
        "recipe_id": ids["recipe"], "sha256": ids["picture"], "size": "320", "set_id": "mascot",
        "number": "0",
        "name": COVER if "cover" in template else "000010.png", "api_name": "generate", "event_id": "x",
    }  # fmt: skip
    if "export" in template:
        known["job_id"] = ids["export"]
    return known


def path_slots(method: str, template: str, things: Things) -> Iterator[Slot]:
    """A word in each place of a path, or behind it where it has none."""
    places = re.findall(r"\{(\w+)(?::\w+)?\}", template)
    usual = _usual(template, things)

    def filled(word: Word | None, place: str) -> str:
        def value(match: re.Match[str]) -> str:
            if word is not None and match[1] == place:
                return word[1]
            return usual.get(match[1], "x")

        return re.sub(r"\{(\w+)(?::\w+)?\}", value, template)

    for place in places:

        def there(word: Word, place: str = place) -> Ask:
            return _ask(method, filled(word, place))

        yield Slot(f"{method} {template} {place}", there)
    plain = filled(None, "")
    if not places:
        yield Slot(f"{method} {template} behind", lambda word: _ask(method, f"{plain.rstrip('/')}/{word[1]}"))

    def around(word: Word) -> Ask:
        value = wired(word[0]).replace("&", "%26").replace("+", "%2B")
        query = "&".join(f"{name}={value}" for name in QUERY)
        return _ask(method, f"{plain}?{query}").but(*((name, _header(word[0])) for name in HEADERS))

    yield Slot(f"{method} {template} around", around, f"{method} {template}")


def file_of(text: str) -> dict[str, Any]:
    """A file as Gradio's clients name one."""
    return {"path": text, "url": text, "orig_name": text, "meta": {"_type": "gradio.FileData"}}


def _mixed(text: str) -> dict[str, Any]:
    part = {"id": text, "weight": 1.0}
    return {"mix": [part], "adapters": [part], "prompt": text, "image": text, "mask": text, "base": text}


def _drawn(text: str) -> dict[str, Any]:
    """A wish for a picture that is drawn over another."""
    return {"mix": [], "generation": {"prompt": "a"}, "image": text, "mask": text}


BODIES: dict[str, tuple[Callable[[str], Any], ...]] = {
    "/mix/recipes": (
        lambda text: {"name": text, "prompt": text, "mix": [{"id": text}]},
        lambda text: {"pigment_recipe": 1, "name": text, "base": {"ref": text}, "adapters": [{"name": text}]},
    ),
    "/live": (
        lambda text: {"client": "w", "request": _mixed(text)}, lambda text: {"client": text, "request": text},
    ),
    **{
        f"/mix/{name}": (
            _mixed, lambda text: {"mix": text}, lambda text: _drawn(f"image/{text}"),
            lambda text: _drawn(f"picture/{text}"),
        )
        for name in ("generate", "balance", "interference", "sentences")
    },
    f"{API}/reset": (lambda text: {"event_id": text},),
    f"{API}/cancel": (lambda text: {"session_hash": text, "fn_index": 0, "event_id": text},),
    f"{API}/component_server": (
        lambda text: {"component_id": text, "session_hash": text, "fn_name": text, "data": text},
        lambda text: {"component_id": 0, "session_hash": "s", "fn_name": text, "data": text},
        lambda text: {"component_id": [text], "session_hash": {"x": text}, "fn_name": [text], "data": text},
    ),
}  # fmt: skip
"""What bodies are understood, by path: a text → a value."""
ANY_BODY: tuple[Callable[[str], Any], ...] = (
    lambda text: text, lambda text: {"path": text, "file": file_of(text), "data": [text, file_of(text)]},
)  # fmt: skip


def body_slots(method: str, template: str, parts: Iterable[str]) -> Iterator[Slot]:
    """A word in a body, whole and in each place of it that is understood."""
    if method not in ("POST", "PUT", "DELETE", "PATCH"):
        return
    target = re.sub(r"\{api_name(:path)?\}", "generate", re.sub(r"\{(?!api_name)[^}]*\}", "x", template))

    def raw(word: Word) -> Ask:
        kind = ("content-type", "application/json")
        return Ask(method, target, (kind,), word[0].encode("utf-8", "surrogatepass"))

    among = f"{method} {template}"
    yield Slot(f"{method} {template} body", raw, among)
    for number, shape in enumerate((*ANY_BODY, *BODIES.get(template.rstrip("/"), ()))):
        yield Slot(
            f"{method} {template} body {number}",
            lambda word, shape=shape: posted(target, shape(word[0]), method=method),  # type: ignore[misc]
            among,
        )
    if template.rstrip("/") in (f"{API}/upload", "/mix/picture"):
        content = b"\x89PNG"
        yield Slot(f"{method} {template} name", lambda word: upload(target, _name(word[0]), content), among)
    if template == "/parts":
        for part in parts:
            yield from _part_slots(part)


def _part_slots(part: str) -> Iterator[Slot]:
    """A word as what a part of the page is about, and in each place of it."""
    yield Slot(f"part {part}", lambda word: _part(part, word[0]), f"part {part}")
    for key in ("open", "job", "id", "search", "a"):

        def asked(word: Word, key: str = key) -> Ask:
            return _part(part, json.dumps({key: word[0]}))

        yield Slot(f"part {part} {key}", asked, f"part {part}")


def _part(part: str, key: str) -> Ask:
    return posted("/parts?wait=0", [{"part": part, "key": key[:1990]}])


def _name(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def function_slots(blocks: Any, acts: Iterable[str]) -> Iterator[Slot]:
    """A word in every input and in the event of every function of the page, public or not, by its number."""
    verbs = itertools.cycle(sorted(set(acts)))
    for number, function in blocks.fns.items():
        if function.fn is None:
            continue
        names = [type(one).__name__ for one in function.inputs]

        def joined(word: Word, number: int = number, names: list[str] = names) -> Ask:
            """`data` for the inputs; what a click says of its button, which is what most act by."""
            text, session = word[0], f"s{next(_numbers)}"
            value = {
                "dataset": text,
                "captions": {text: text},
                "chosen": text,
                "changes": {"data.captioner": text},
            }
            data: list[Any] = [value if name == "HTML" else text for name in names]
            if names and names[0] == "Api":
                data[:2] = [[file_of(text)] if number % 2 else text, text]
            files = [{"path": text, "name": text}]
            event = {"act": next(verbs), "id": text, "ids": [text], "form": next(verbs), "about": [text],
                     "files": files, "values": {"name": text}, "step": text,
                     "rank": text, "rule": text}  # fmt: skip
            body = {
                "fn_index": number,
                "data": data,
                "session_hash": session,
                "event_data": event,
                "trigger_id": 1,
            }
            return posted(f"{API}/queue/join", body)

        yield Slot(f"function {number} {function.api_name}", joined, streams=True)


def server_slots(blocks: Any) -> Iterator[Slot]:
    """A word in what the widgets ask of the server (see `studio.tabs.dataset.server_functions`)."""
    for number, block in blocks.blocks.items():
        verbs = [name for name in dir(block) if getattr(getattr(block, name, None), "_is_server_fn", False)]
        for verb in verbs:

            def called(word: Word, number: int = number, verb: str = verb) -> Ask:
                text = word[0]
                asked = {"dataset": text, "sha": text, "text": text, "files": [{"path": text, "name": text}]}
                body = {"component_id": number, "session_hash": "s", "fn_name": verb, "data": asked}
                return posted(f"{API}/component_server", body)

            yield Slot(f"widget {number} {verb}", called)


def slots(app: Any, things: Things) -> list[Slot]:
    """All of a room's app. things: of somebody, whose ids stand in places without a word."""
    from studio.parts import PARTS
    from studio.tabs import jobs_pieces, library, teach_run

    blocks = app.state.gradio.get_blocks()
    acts = [
        *library.ACTS,
        *library.FORMS,
        *teach_run.VERBS,
        *jobs_pieces.ACTS,
        "open",
        "page",
        "mix",
        "trash",
    ]
    found: list[Slot] = []
    for method, template in sorted(set(routes(app.routes))):
        found += path_slots(method, template, things)
        found += body_slots(method, template, PARTS)
    return [*found, *function_slots(blocks, acts), *server_slots(blocks)]
