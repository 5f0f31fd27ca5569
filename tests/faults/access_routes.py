"""Every route × payloads × {nobody, A, B}: what isn't theirs is neither read nor changed."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.access_client import Answer, Ask, posted
from tests.faults.access_payloads import payloads
from tests.faults.access_slots import API, Slot, Word, file_of, slots
from tests.faults.access_things import state, strays
from tests.faults.access_world import World, run, world
from tests.faults.suites import Tally, Task

TOGETHER = 8  # requests under way
CHUNK = 400  # requests between two looks at the workspaces
OTHERS = {"": ("A", "B"), "A": ("B",), "B": ("A",)}
"""Whose things must stay unread and unchanged, by who asks."""
OPEN = ("/login", "/logout")  # what answers without a login


@dataclass(frozen=True)
class Try:
    """A word in a place."""

    slot: Slot
    word: Word


def words(made: World) -> list[Word]:
    """All that is tried: files that nobody may have, and ids of what is A's and B's."""
    a, b = made.things["A"], made.things["B"]
    targets: list[Path | str] = [
        made.secret, "/etc/passwd", made.root / "pigment.sqlite3", made.root / "workspace.lock",
        a.root / "images" / f"{a.ids['image']}.png", b.root / "images" / f"{b.ids['image']}.png",
        a.root / "runs" / a.ids["run"] / "events.jsonl", a.uploads[0], b.uploads[0],
    ]  # fmt: skip
    ids = [
        f"{value}{end}"
        for own in (a, b)
        for value in own.ids.values()
        for end in ("", ".png", "/../x", "%00")
    ]
    return payloads(targets, ids)


def plan(found: Sequence[Slot], tried: Sequence[Word], count: int, chance: random.Random) -> Iterator[Try]:
    """Each word on each route, or `count` of those, as evenly over places and words as it goes."""
    if count >= len(found) * len(tried):
        dealt = Counter(slot.among for slot in found)
        turns = Counter[str]()
        for slot in found:
            step = dealt[slot.among] if slot.among else 1
            yield from (Try(slot, word) for word in tried[turns[slot.among] % step :: step])
            turns[slot.among] += 1
        return
    order, deck = list(found), list(tried)
    chance.shuffle(order)
    chance.shuffle(deck)
    for number in range(count):
        turn, place = divmod(number, len(order))
        yield Try(order[place], deck[(place + turn) % len(deck)])


def problem(made: World, who: str, ask: Ask, answer: Answer) -> str | None:
    """What is wrong with an answer; None: nothing."""
    held = {
        "a file outside": made.system,
        **{f"what is {one}'s": made.things[one].canary for one in OTHERS[who]},
    }
    said = answer.body + repr(answer.headers).encode()
    for what, word in held.items():
        if word.encode() in said:
            return f"{who or 'nobody'} has read {what}"
    if b"SQLite format 3" in said or b"root:x:0:0" in said:
        return f"{who or 'nobody'} has read a file of the system or the index"
    if answer.status >= 500 or answer.broke:
        return f"answered {answer.status} {answer.broke or answer.body[:120]!r}"
    if answer.status == 0:
        return "was never answered"
    path = ask.target.partition("?")[0].rstrip("/")
    sent_to_login = answer.status == 303 and answer.header("location") == "/login"
    if not who and answer.status < 400 and path not in OPEN and not sent_to_login:
        return f"answered {answer.status} without a login"
    return None


async def tried(made: World, who: str, one: Try) -> tuple[Ask, str | None]:
    """Do one, with its stream where it has one."""
    ask = one.slot.make(one.word)
    answer = await made.ask(ask, who)
    found = problem(made, who, ask, answer)
    if one.slot.streams and found is None and answer.status == 200:
        session = json.loads(ask.body)["session_hash"]
        stream = Ask("GET", f"{API}/queue/data?session_hash={session}", until=b"process_completed")
        answer = await made.ask(stream, who)
        found = problem(made, who, stream, answer)
        if found is None and b"process_completed" not in answer.body:
            found = f"never ended: {answer.body[-200:]!r}"
    return ask, found


def told(who: str, one: Try) -> str:
    """A try in words."""
    return f"{who or 'nobody'}, {one.slot.name}, {one.word[0][:80]!r}"


async def attempt(made: World, who: str, tries: Sequence[Try], tally: Tally) -> None:
    """Do tries together; whoever's state isn't to change, is looked at before and after."""
    gate = asyncio.Semaphore(TOGETHER)

    async def do(one: Try) -> None:
        async with gate:
            _, found = await tried(made, who, one)
        tally.happened(told(who, one), found)

    before = {one: whose(made, one) for one in OTHERS[who]}
    await asyncio.gather(*(do(one) for one in tries))
    for one, was in before.items():
        if whose(made, one) != was:
            tally.happened(f"{who or 'nobody'}, {tries[0].slot.name} to {tries[-1].slot.name}",
                           f"changed what is {one}'s")  # fmt: skip
    for one in made.things:
        words = {
            "a file outside": made.system,
            **{f"what is {o}'s": made.things[o].canary for o in made.things if o != one},
        }
        if stray := strays(made.things[one].root, words, without="accounts" if one == "A" else ""):
            tally.happened(f"{who or 'nobody'}, {tries[0].slot.name} to {tries[-1].slot.name}", stray)


def whose(made: World, who: str) -> str:
    """A hash of all that somebody has."""
    return state(made.things[who].root, without="accounts" if who == "A" else "")


def routes_run(task: Task, tally: Tally) -> None:
    """Try everything on every route."""
    made = world()
    run(_all(made, task, tally))


async def _all(made: World, task: Task, tally: Tally) -> None:
    deck, chance = words(made), random.Random(task.seed)
    for who in ("", "B", "A"):
        found = slots(made.rooms[who or "A"], made.things["B" if who == "A" else "A"])
        tries = known(made)
        tries += plan(found, deck, 10**9 if task.whole else -(-task.count // 3), chance)
        for first in range(0, len(tries), CHUNK):
            await attempt(made, who, tries[first : first + CHUNK], tally)


def known(made: World) -> list[Try]:
    """What has once gone wrong, or would where one safeguard is missing; tried before all else."""
    secret = str(made.secret)
    generate = posted(f"{API}/call/v2/generate", {"prompt": "a", "image": file_of(secret), "wait": 0})
    nothing = {"component_id": 0, "session_hash": "s", "fn_name": "take", "data": {}}
    uploads = [path for own in made.things.values() for path in own.uploads]
    asks = [
        *(Ask("GET", address) for address in made.links.values()),
        *(Ask("GET", f"{API}/file={name}") for name in (secret, *uploads)),
        Ask("GET", "/?view=x"), Ask("GET", f"{API}/queue/data?session_hash=x"), generate,
        posted(f"{API}/component_server", nothing), posted(f"{API}/call/v2/generate", {"path": "x"}),
        posted("/parts?wait=0", [{"part": "adapters"}, {"part": "jobs"}, {"part": "gallery"}]),
    ]  # fmt: skip
    return [Try(Slot(f"{ask.method} {ask.target}", partial(_same, ask)), ("", "")) for ask in asks]


def _same(ask: Ask, word: Word) -> Ask:
    return ask
