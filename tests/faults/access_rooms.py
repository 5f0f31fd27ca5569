"""What is A's, asked for by others in every way that answers its owner; what changes it, done by others."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.faults import access_world
from tests.faults.access_client import Answer, Ask, posted, upload
from tests.faults.access_routes import problem, whose
from tests.faults.access_slots import API, file_of
from tests.faults.access_things import png
from tests.faults.access_world import NAMES, PASSWORDS, World, run
from tests.faults.suites import Tally, Task

Way = Callable[[World, str, str], Ask]
"""(studio, who owns a thing, its address) → how it is asked for."""
_sessions = itertools.count()


def _basic(who: str) -> tuple[str, str]:
    pair = f"{NAMES[who]}:{PASSWORDS[NAMES[who]]}"
    return "authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"


def _named(made: World, owner: str, address: str) -> Ask:
    name = NAMES[owner]
    said = tuple((header, name) for header in ("x-forwarded-user", "x-gradio-user", "remote-user", "x-user"))
    return Ask("GET", f"{address}?user={name}&username={name}&account={name}", said)


WAYS: dict[str, Way] = {
    "plainly": lambda made, owner, address: Ask("GET", address),
    "a part": lambda made, owner, address: Ask("GET", address, (("range", "bytes=0-99999"),)),
    "by name": _named,
    "as a page": lambda made, owner, address: Ask("GET", address, (("accept", "text/html,*/*"),)),
    "behind a proxy": lambda made, owner, address: Ask(
        "GET", address, (("x-forwarded-host", "127.0.0.1:7860"),)
    ),
    "its head": lambda made, owner, address: Ask("HEAD", address),
}


async def _asking(made: World, who: str, owner: str, kind: str, way: str, tally: Tally) -> None:
    """Ask for a thing of somebody; the owner gets it, or nothing is shown by others not getting it."""
    address = made.things[owner].addresses[kind]
    ask = WAYS[way](made, owner, address)
    theirs = await made.ask(ask, owner)
    if theirs.status not in (200, 206, 405) or (way == "plainly" and not _holds(made, owner, kind, theirs)):
        tally.didnt_happen()
        return
    answer = await made.ask(ask, who)
    found = problem(made, who, ask, answer)
    if found is None and answer.status < 400 and answer.status != 303:
        found = f"was answered {answer.status}"
    if found is None and (tag := theirs.header("etag")):
        known = await made.ask(ask.but(("if-none-match", tag)), who)
        found = "was told that it is the same" if known.status == 304 else None
    tally.happened(f"{who or 'nobody'} asks for {owner}'s {kind} {way}", found)


def _holds(made: World, owner: str, kind: str, answer: Answer) -> bool:
    """Whether that is the owner's thing; a picture made smaller has lost the word in it."""
    return made.things[owner].canary.encode() in answer.body or (
        kind == "small picture" and bool(answer.body)
    )


def rooms_run(task: Task, tally: Tally) -> None:
    """Each person's things, asked for by the other and by nobody."""
    made = access_world.world()
    tried = [
        (who, owner, kind, way)
        for way in WAYS for owner in NAMES for kind in made.things[owner].addresses
        for who in ("", "B" if owner == "A" else "A")
    ]  # fmt: skip

    async def all_of_them() -> None:
        for who, owner, kind, way in tried if task.whole else tried[: task.count]:
            await _asking(made, who, owner, kind, way, tally)

    run(all_of_them())


# ── What changes something


@dataclass(frozen=True)
class Change:
    """A request that changes what somebody has. streams: it is done when the queue says so."""

    ask: Ask
    streams: str = ""


def called(made: World, name: str, act: str, more: dict[str, Any], count: int | None = None) -> Change:
    """What a button sends: a function of the page by its name, with an event."""
    functions = made.rooms["A"].state.gradio.get_blocks().fns.items()
    found = [(number, one) for number, one in functions if one.fn is not None and one.fn.__qualname__ == name]
    number, function = found[0] if count is None else found[count]
    session = f"change{next(_sessions)}"
    data: list[Any] = [{} for _ in function.inputs]
    body = {"fn_index": number, "data": data, "session_hash": session, "event_data": {"act": act, **more}}
    return Change(posted(f"{API}/queue/join", body), session)


def changes(made: World, owner: str, who: str) -> dict[str, Change]:
    """What changes somebody's things, by name. who: asks for it, whose page's numbers are said."""
    ids, things = made.things[owner].ids, made.things[owner]
    blocks = made.rooms[who or owner].state.gradio.get_blocks().blocks
    widget = next(number for number, one in blocks.items() if getattr(one, "elem_id", "") == "pictures")

    def widgets(verb: str, **asked: Any) -> Change:
        body = {"component_id": widget, "session_hash": "s", "fn_name": verb, "data": asked}
        return Change(posted(f"{API}/component_server", body))

    def verb(name: str, **arguments: Any) -> Change:
        return Change(posted(f"{API}/call/v2/{name}", arguments), name)

    dropped = [{"path": things.uploads[0], "name": "u.png"}]
    own = {"dataset": ids["dataset"], "sha": ids["picture"]}
    mixed = {"mix": [{"id": ids["adapter"]}], "generation": {"prompt": "a"}, "image": f"image/{ids['image']}"}
    recipe = {"pigment_recipe": 1, "name": "z", "base": {"ref": "p", "family": "p", "sha256": "0" * 64},
              "adapters": [{"name": "x", "sha256": "2" * 64, "bytes": 3}]}  # fmt: skip
    return {
        "drop a file": Change(upload(f"{API}/upload", "new.png", png(f"new {owner}", (7, 7, 7)))),
        "write a caption": widgets("caption", **own, text="changed"),
        "take an upload": widgets("take", dataset=ids["dataset"], files=dropped),
        "take a picture out": widgets("remove", **own),
        "import a recipe": Change(posted("/mix/recipes", recipe, method="PUT")),
        "draw a mix": Change(posted("/mix/generate", mixed)),
        "draw": verb("generate", prompt="x", adapters={ids["adapter"]: 1.0}, wait=0),
        "draw over an upload": verb("generate", prompt="x", image=file_of(things.uploads[1]), wait=0),
        "export": verb("export", adapter=ids["adapter"], wait=0),
        "take a job off": called(made, "build.<locals>.act", "remove", {"id": ids["run"]}, 1),
        "trash a picture": called(made, "build.<locals>.act", "trash", {"ids": [ids["image"]]}, 0),
        "trash adapters": called(made, "_several.<locals>.several", "trash", {"ids": [ids["adapter"]]}),
        "remove a recipe": Change(Ask("DELETE", f"/mix/recipes/{ids['recipe']}")),
    }  # fmt: skip


async def _done(made: World, who: str, change: Change) -> tuple[str | None, str]:
    """Do it; what is wrong with its answer, and the answer in short."""
    answer = await made.ask(change.ask, who)
    found = problem(made, who, change.ask, answer)
    if not change.streams or answer.status != 200:
        return found, f"{answer.status} {answer.body[-200:]!r}"
    if change.ask.target.endswith("/join"):
        stream = Ask("GET", f"{API}/queue/data?session_hash={change.streams}", until=b"process_completed")
    else:
        stream = Ask("GET", f"{API}/call/{change.streams}/{answer.json()['event_id']}", until=b"event: ")
    answer = await made.ask(stream, who)
    return found or problem(made, who, stream, answer), f"{answer.status} {answer.body[-200:]!r}"


def changes_run(task: Task, tally: Tally) -> None:
    """What changes A's and B's things, done by nobody and by the other; then by themselves, which works."""
    made = access_world.made_anew()
    run(_changes(made, task, tally))


async def _changes(made: World, task: Task, tally: Tally) -> None:
    names = list(changes(made, "A", "A"))
    for owner, other in (("A", "B"), ("B", "A")):
        problems: dict[tuple[str, str], str | None] = {}
        for who in ("", other):
            was = whose(made, owner)
            for name, change in changes(made, owner, who).items():
                problems[name, who], _ = await _done(made, who, change)
                if whose(made, owner) != was:
                    problems[name, who], was = f"changed what is {owner}'s", whose(made, owner)
        for name, change in changes(made, owner, owner).items():
            was = whose(made, owner)
            found, said = await _done(made, owner, change)
            works = whose(made, owner) != was
            for who in ("", other):
                if works or problems[name, who]:
                    tally.happened(f"{who or 'nobody'} tries to {name}, {owner}'s", problems[name, who])
                else:  # it changes nothing for anybody
                    tally.didnt_happen()
                    MISSED.append(f"{owner} {name}: {found} {said}")
        if not task.whole and 2 * len(names) >= task.count:
            return


MISSED: list[str] = []
"""Changes that their owner couldn't make either, for whoever mends this file."""
