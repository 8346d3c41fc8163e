"""What becomes of records read one by one, to compare with what becomes of them together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from pipeline.intake import Intake
from pipeline.record import Outgoing, Record
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import unseal


def _intake(definitions: Definitions, shards: int = 3) -> Intake:
    return _intake_by(definitions.model_dump_json(), shards)


@cache
def _intake_by(document: str, shards: int) -> Intake:
    return Intake(Definitions.model_validate_json(document), shards)


def seen(outgoing: Sequence[Outgoing]) -> list[object]:
    """Rejections as they are, packs as what they hold."""
    found: list[object] = []
    for each in sorted(outgoing, key=lambda each: each.topic):
        if each.topic == topics.REJECTED.name:
            found.append((each.value, each.key, each.headers))
        else:
            frame = unseal(each.value or b"")
            found.append((each.partition, frame.header, frame.parts[0].to_pydict()))
    return found


def one_by_one(
    arriving: Sequence[Record], definitions: Definitions, shards: int = 3
) -> list[Outgoing]:
    """What becomes of them when nothing is scanned."""
    intake = _intake(definitions, shards)
    scan = intake._scanner.scan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake._scanner, "scan", lambda events, wanted: scan(events, wanted & False))
        return intake.step(arriving)


def assert_read_alike(arriving: Sequence[Record], definitions: Definitions) -> None:
    """Records are read together as they are read one by one."""
    together = _intake(definitions).step(arriving)
    apart = one_by_one(arriving, definitions)
    assert sorted(seen(together), key=repr) == sorted(seen(apart), key=repr)
