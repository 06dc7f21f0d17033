"""Answers that are kept: only while they are true, and only so many."""

from __future__ import annotations

from stream.serve.kept import Kept, body_of


def test_an_answer_is_found_as_long_as_its_version_stays() -> None:
    kept = Kept()
    kept.keep("/a", (1, 2), body_of(b"one"))
    assert kept.find("/a", (1, 2)) == body_of(b"one")
    assert kept.find("/a", (1, 3)) is None
    assert kept.find("/b", (1, 2)) is None
    kept.keep("/a", (1, 3), body_of(b"two"))
    assert kept.find("/a", (1, 3)) == body_of(b"two")


def test_those_that_nobody_asked_for_lately_leave() -> None:
    kept = Kept(most_bytes=100, most=5)
    for number in range(4):
        kept.keep(f"/{number}", 1, body_of(bytes(20)))
    assert kept.find("/0", 1) is not None
    kept.keep("/big", 1, body_of(bytes(60)))
    assert [kept.find(f"/{number}", 1) is not None for number in range(4)] == [True, False, False, True]
    for number in range(20):
        kept.keep(f"/small{number}", 1, body_of(b""))
    assert len(kept) == 5
    kept.keep("/huge", 1, body_of(bytes(101)))
    assert len(kept) == 0
