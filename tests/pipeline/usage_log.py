"""Usage events on their way through the core: made, taken in, packed and opened again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from hypothesis import settings

from pipeline.intake import Intake
from pipeline.pack import Pack
from pipeline.record import Headers, Outgoing, Record
from schemas import rejection, topics
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind, unseal

#: 2026-11-20T09:30:00Z
NOVEMBER_20_MS = 1_795_167_000_000

TOKENS = Definitions.model_validate(
    {
        "meters": [
            {
                "slug": "tokens",
                "event_type": "llm",
                "aggregation": "sum",
                "value": "$.n",
                "group_by": {"model": "$.model"},
            }
        ],
        "plans": [{"slug": "free"}],
        "default_plan": "free",
    }
)


#: The last second whose nanoseconds are taken, since 1970.
SECOND_MAX = 106_751 * 86_400 - 1


def utc(*fields: int) -> datetime:
    """A moment in UTC, from the year on."""
    return datetime(*fields, tzinfo=UTC)  # type: ignore[misc,arg-type]


EPOCH = utc(1970, 1, 1)


def core(examples: int) -> settings:
    """The same examples on every machine, however slow it is."""
    return settings(max_examples=examples, deadline=None, derandomize=True)


def event(event_id: str = "1", /, **attributes: Any) -> bytes:
    """An event in structured mode; an attribute of None is left out."""
    named = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/test",
        "type": "llm",
        "subject": "cus_1",
        "time": "2026-11-20T09:30:00Z",
        "data": {"n": 1, "model": "m"},
    } | attributes
    return json.dumps({name: value for name, value in named.items() if value is not None}).encode()


def record(
    value: bytes | None,
    offset: int = 0,
    headers: Headers = (),
    key: bytes | None = None,
    received_ms: int = NOVEMBER_20_MS,
) -> Record:
    """A record of usage.events."""
    return Record(topics.EVENTS.name, 0, offset, received_ms, key, value, headers)


def binary(
    data: bytes | None, content_type: bytes | None = b"application/json", /, **attributes: str
) -> Record:
    """The event of `event()` in binary mode, with `data` as its value."""
    named = {
        "specversion": "1.0",
        "id": "1",
        "source": "/test",
        "type": "llm",
        "subject": "cus_1",
        "time": "2026-11-20T09:30:00Z",
    } | attributes
    headers = tuple((f"ce_{name}", text.encode()) for name, text in named.items())
    if content_type is not None:
        headers += (("content-type", content_type),)
    return record(data, headers=headers)


def records(values: Iterable[bytes | None]) -> list[Record]:
    """Records of usage.events, one after the other."""
    return [record(value, offset) for offset, value in enumerate(values)]


def take_in(
    arriving: Sequence[Record], definitions: Definitions = TOKENS, shards: int = 16
) -> tuple[list[tuple[int, Pack]], list[Outgoing]]:
    """What intake makes of `arriving`: (shard, pack) each, and rejections."""
    outgoing = Intake(definitions, shards).step(arriving)
    packs = []
    rejections = []
    for each in outgoing:
        if each.topic == topics.METERED.name:
            frame = frame_of(each)
            assert frame.kind is Kind.PACK
            assert each.partition is not None
            packs.append((each.partition, Pack(frame)))
        else:
            assert each.topic == topics.REJECTED.name
            rejections.append(each)
    return packs, rejections


def pieces(count: int, cuts: Iterable[int]) -> list[slice]:
    """`count` things in order, cut at these places."""
    bounds = sorted({0, count, *(cut for cut in cuts if cut < count)})
    return [slice(begin, end) for begin, end in pairwise(bounds)]


def frame_of(outgoing: Outgoing) -> Frame:
    """The frame in a packed record."""
    return unseal(outgoing.value or b"")


def why(rejected: Outgoing) -> str:
    """The reason code of a rejection."""
    return dict(rejected.headers)[rejection.HEADER_REASON].decode()


def positions(packs: Iterable[tuple[int, Pack]]) -> list[int]:
    """The source offsets of all packed events."""
    return [offset for _, pack in packs for offset in pack.numbers("source_offset").tolist()]
