"""Records taken in, each checked to be in exactly one pack or in exactly one whole rejection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import get_args

from pipeline.pack import Pack
from pipeline.record import Outgoing, Record
from schemas import rejection
from schemas.definitions import Definitions
from tests.pipeline.usage_log import positions, records, take_in

REASONS = set(get_args(rejection.Reason))
#: What is added to every rejection that is kept whole.
OURS = {value for name, value in vars(rejection).items() if name.startswith("HEADER_")} - {
    rejection.HEADER_LEFT_OUT
}

#: Reads several paths, one of them through a list, and groups by anything.
HUNGRY = Definitions.model_validate(
    {
        "meters": [
            {
                "slug": "tokens",
                "event_type": "llm",
                "aggregation": "sum",
                "value": "$.n",
                "group_by": {"model": "$.model", "all": "$", "first": "$.list[0]"},
            },
            {"slug": "calls", "event_type": "call", "aggregation": "count"},
            {"slug": "whole", "event_type": "whole", "aggregation": "max", "value": "$"},
        ],
        "plans": [{"slug": "free"}],
        "default_plan": "free",
    }
)


def offset_of(letter: Outgoing) -> int:
    """The source offset that a rejection names."""
    return int(dict(letter.headers)[rejection.HEADER_OFFSET])


def settle(
    arriving: Sequence[Record], definitions: Definitions = HUNGRY
) -> tuple[list[tuple[int, Pack]], dict[int, Outgoing]]:
    """Take in, and check that each record is in one pack or is one whole rejection."""
    packs, letters = take_in(arriving, definitions)
    rejected = {offset_of(letter): letter for letter in letters}
    ended = Counter([*positions(packs), *map(offset_of, letters)])
    assert ended == Counter(range(len(arriving)))
    for offset, letter in rejected.items():
        original = arriving[offset]
        added = dict(letter.headers[len(original.headers) :])
        assert (letter.key, letter.value) == (original.key, original.value)
        assert letter.headers[: len(original.headers)] == original.headers
        assert added.keys() == OURS
        assert len(letter.headers) - len(original.headers) == len(OURS)
        assert added[rejection.HEADER_REASON].decode() in REASONS
        assert added[rejection.HEADER_MESSAGE]
        assert added[rejection.HEADER_REMEDY]
        assert len(added[rejection.HEADER_MESSAGE]) < 1_000
    return packs, rejected


def accepted(values: Iterable[bytes | None]) -> list[bool]:
    """Which values, as records without headers, are packed."""
    arriving = records(values)
    _, rejected = settle(arriving)
    return [offset not in rejected for offset in range(len(arriving))]


def originals(packs: list[tuple[int, Pack]]) -> dict[int, bytes]:
    """The packed events in structured mode, by their source offset."""
    return {
        offset: original
        for _, pack in packs
        for offset, original in zip(
            pack.numbers("source_offset").tolist(), pack.originals.to_pylist(), strict=True
        )
    }


def same_event(packs: list[tuple[int, Pack]]) -> bool:
    """Whether two events have one identity and one fingerprint."""
    ((_, pack),) = packs
    return all(
        len(set(pack.numbers(column).tolist())) == 1
        for column in ("id_high", "id_low", "fingerprint")
    )
