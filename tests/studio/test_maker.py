"""The drawing child keeps what a mix needs, however many adapters it has seen."""

from __future__ import annotations

from studio.maker import KEPT_ADAPTERS, Maker


class Held:
    """A mixer's names alone."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def remove(self, name: str) -> None:
        self.names.remove(name)


def test_room_is_made_among_unused_adapters_only() -> None:
    maker = Maker.__new__(Maker)
    maker._mixer = Held([f"old{n}" for n in range(KEPT_ADAPTERS - 1)] + ["used"])
    maker._make_room({"used"})
    assert len(maker._mixer.names) == KEPT_ADAPTERS
    maker._make_room({"used", "new"})
    assert maker._mixer.names == ["used"]
    many = {f"new{n}" for n in range(KEPT_ADAPTERS + 4)}
    maker._mixer.names = sorted(many)
    maker._make_room(many)
    assert set(maker._mixer.names) == many
