"""What streams are made of: the newest records of each topic in order, and where in the log each of them stood.

The feed is every reader's queue: a reader is a place in it, so a thousand slow ones cost no more than one. A record is put into the
words of server-sent events once, whoever reads it.

An event's id says, for each topic that its reader follows, the next offset of every partition: `demand:120.98,spikes:7.4`. It is true
of the log and not of this process, so that a stream goes on behind it at any instance, without a hole and without a repetition.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from heapq import merge
from typing import NamedTuple

import msgspec

from stream.serve.view import TOPICS

_ID = re.compile(r"[a-z]+:\d{1,19}(\.\d{1,19}){0,9999}(,[a-z]+:\d{1,19}(\.\d{1,19}){0,9999}){0,15}")
_LONGEST_ID = 16_384

Places = dict[str, list[int]]
"""The next offset of each partition, by topic."""


class Wanted(NamedTuple):
    """What a reader follows."""

    topics: tuple[str, ...]
    """Of TOPICS, in their order."""
    item: str | None = None
    """Of demand, spikes and prices only what concerns it."""
    session: str | None = None
    """Of intent only what concerns it (its id, never its pseudonym)."""
    masked: bool = False

    def about(self, topic: str) -> str | None:
        """What the records of a topic must be about; None: anything.

        Args:
            topic: one of its own.
        """
        if topic == "intent":
            return self.session
        return None if topic == "alerts" else self.item


class Entry(msgspec.Struct, gc=False):
    """One record. Nothing in it can lead back to it, and the cycle collector need not walk tens of thousands of them."""

    seq: int
    topic: str
    partition: int
    offset: int
    about: str
    raw: bytes
    plain: bytes = b""
    """As an event, without its id; made when it is first needed."""
    masked: bytes = b""
    """The same with pseudonyms."""


class Gap(NamedTuple):
    """What a reader has missed, and is told."""

    topic: str
    partition: int
    asked: int
    """The offset that it wanted to go on from."""
    found: int
    """The one that it goes on from."""
    reason: str


class Feed:
    """The newest records of each topic.

    Args:
        records: of each topic, at most.
        size: bytes of each topic, at most.
        mask: gives a record of intent with pseudonyms.
    """

    def __init__(self, records: int, size: int, mask: Callable[[bytes], bytes]) -> None:
        self._records, self._size, self._mask = records, size, mask
        self._kept: dict[str, deque[Entry]] = {topic: deque() for topic in TOPICS}
        self._bytes = dict.fromkeys(TOPICS, 0)
        self._floor: Places = {}
        """From these offsets on nothing is missing."""
        self.places: Places = {}
        self.seq = 0
        """Of the next entry."""
        self._texts: dict[str, str] = {}

    def open(self, topic: str, starts: list[int]) -> None:
        """A topic is followed from here on.

        Args:
            topic: one of TOPICS.
            starts: the first offset that will be read, by partition.
        """
        places, floor = self.places.setdefault(topic, []), self._floor.setdefault(topic, [])
        for start in starts[len(places) :]:
            places.append(start)
            floor.append(start)
        self._texts.pop(topic, None)

    def take(self, topic: str, partition: int, offset: int, about: str, raw: bytes) -> Entry:
        """Takes a record.

        Args:
            topic: of an open topic.
            partition: its number.
            offset: the record's own.
            about: the item or the session.
            raw: its value, JSON.
        """
        if b"\n" in raw or b"\r" in raw:
            raw = msgspec.json.format(raw, indent=-1)  # a line of an event has no end inside
        entry = Entry(self.seq, topic, partition, offset, about, raw)
        self.seq += 1
        kept = self._kept[topic]
        kept.append(entry)
        self._bytes[topic] += len(raw)
        self.passed(topic, partition, offset + 1)
        while len(kept) > self._records or self._bytes[topic] > self._size:
            old = kept.popleft()
            self._bytes[topic] -= len(old.raw)
            self._floor[topic][old.partition] = old.offset + 1
        return entry

    def passed(self, topic: str, partition: int, place: int) -> None:
        """A partition has been read up to an offset.

        Args:
            topic: of an open topic.
            partition: its number.
            place: the next offset.
        """
        self.places[topic][partition] = place
        self._texts.pop(topic, None)

    def restart(self, topic: str, partition: int, place: int) -> None:
        """A partition's log goes on at a smaller or a larger offset than expected: it was made anew, or has lost records.

        Args:
            topic: of an open topic.
            partition: its number.
            place: the next offset.
        """
        kept = self._kept[topic]
        self._kept[topic] = deque(entry for entry in kept if entry.partition != partition)
        self._bytes[topic] = sum(len(entry.raw) for entry in self._kept[topic])
        self._floor[topic][partition] = place
        self.passed(topic, partition, place)

    # ---- ids

    def id_of(self, topics: tuple[str, ...]) -> str:
        """Where everything that was taken ends.

        Args:
            topics: those that the id speaks of.
        """
        texts = self._texts
        for topic in topics:
            if topic not in texts and topic in self.places:
                texts[topic] = text_of(topic, self.places[topic])
        return ",".join(texts[topic] for topic in topics if topic in texts)

    def start(self, wanted: Wanted, after: Places | None) -> tuple[Places, list[Gap]]:
        """Where a reader begins, and what it has missed.

        Args:
            wanted: what it follows.
            after: of the last event that it has; None: it begins now.
        """
        places: Places = {}
        gaps: list[Gap] = []
        for topic in wanted.topics:
            if topic not in self.places:
                continue
            now, floor = self.places[topic], self._floor[topic]
            asked = (after or {}).get(topic)
            if asked is None:
                places[topic] = list(now)
                continue
            # A partition that the id does not know is newer than it: all of it is news.
            places[topic] = [asked[number] if number < len(asked) else floor[number] for number in range(len(now))]
            for number, place in enumerate(places[topic]):
                if place < floor[number]:
                    gaps.append(Gap(topic, number, place, floor[number], "no longer kept"))
                    places[topic][number] = floor[number]
        return places, gaps

    def ahead(self, places: Places) -> list[tuple[str, int]]:
        """Partitions of which a reader has seen more than this process.

        Args:
            places: the reader's.
        """
        mine = self.places
        return [(topic, number) for topic, theirs in places.items() for number, place in enumerate(theirs) if place > mine[topic][number]]

    def lost(self, places: Places) -> list[Gap]:
        """What a reader can no longer get.

        Args:
            places: the reader's.
        """
        return [
            Gap(topic, number, place, self._floor[topic][number], "no longer kept")
            for topic, theirs in places.items()
            for number, place in enumerate(theirs)
            if place < self._floor[topic][number]
        ]

    def since(self, seq: int, topics: tuple[str, ...]) -> Iterator[Entry]:
        """The entries from one on, in order.

        Args:
            seq: the first.
            topics: of these alone.
        """
        runs = [_from(self._kept[topic], seq) for topic in topics]
        runs = [run for run in runs if run]
        return iter(runs[0]) if len(runs) == 1 else merge(*runs, key=lambda entry: entry.seq)

    def event(self, entry: Entry, masked: bool) -> bytes:
        """A record in the words of server-sent events, without its id.

        Args:
            entry: of this feed.
            masked: with pseudonyms.
        """
        if masked and entry.topic == "intent":
            if not entry.masked:
                entry.masked = event(entry.topic, self._mask(entry.raw))
            return entry.masked
        if not entry.plain:
            entry.plain = event(entry.topic, entry.raw)
        return entry.plain


def _from(kept: deque[Entry], seq: int) -> list[Entry]:
    """From the right, since that is where readers are."""
    found: list[Entry] = []
    for entry in reversed(kept):
        if entry.seq < seq:
            break
        found.append(entry)
    found.reverse()
    return found


def event(name: str, data: bytes) -> bytes:
    """An event of a stream, without an id.

    Args:
        name: of the event.
        data: one line.
    """
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def text_of(topic: str, places: list[int]) -> str:
    """A topic's part of an id.

    Args:
        topic: its name.
        places: the next offset of each partition.
    """
    return f"{topic}:{'.'.join(map(str, places))}"


def read_id(text: str) -> Places | None:
    """Reads an event's id.

    Args:
        text: as a reader sends it back.

    Returns:
        None: it is none of ours.
    """
    if len(text) > _LONGEST_ID or not _ID.fullmatch(text):
        return None
    parts = (part.split(":") for part in text.split(","))
    return {topic: [int(place) for place in places.split(".")] for topic, places in parts if topic in TOPICS}
