"""The API's lists: what there is, a part at a time."""

from __future__ import annotations

from collections.abc import Callable

from studio import answers
from studio.answers import ListAnswer
from studio.bases import Bases
from studio.context import Context
from studio.examples import example_sets
from studio.gallery import Gallery
from studio.searching import Query

PAGE = 24  # things in a part of a list


def _adapters(context: Context, search: str, page: int) -> ListAnswer:
    found = context.library.search(Query(words=search[:200], page=page), PAGE)
    items = [answers.adapter_answer(entry) for entry in found.entries] if found.page == page else []
    return {"items": items, "total": found.total}


def _pictures(context: Context, search: str, page: int) -> ListAnswer:
    found = Gallery(context.workspace).search(search, page, size=PAGE)
    items = [answers.picture_answer(drawn) for drawn in found.pictures] if found.page == page else []
    return {"items": items, "total": found.total}


def _jobs(context: Context, search: str, page: int) -> ListAnswer:
    found = [answers.job_answer(context, job) for job in context.jobs.find(limit=PAGE, offset=page * PAGE)]
    items = [answers.thing_of_job(job) for job in found]
    return {"items": items, "total": sum(context.jobs.counts().values())}


def _examples(context: Context, search: str, page: int) -> ListAnswer:
    items = [answers.example_answer(one) for one in example_sets()]
    return {"items": items[page * PAGE : (page + 1) * PAGE], "total": len(items)}


def _bases(context: Context, search: str, page: int) -> ListAnswer:
    items = [answers.pocket_answer(), *map(answers.base_answer, Bases(context.workspace).entries())]
    return {"items": items[page * PAGE : (page + 1) * PAGE], "total": len(items)}


LISTS: dict[str, Callable[[Context, str, int], ListAnswer]] = {
    "adapters": _adapters, "pictures": _pictures, "jobs": _jobs, "examples": _examples, "bases": _bases,
}  # fmt: skip
"""By what is listed: (studio, words to search for, page from 0) → its part."""
