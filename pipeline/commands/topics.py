"""`meterline topics`: prepare a Kafka cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.settings import read_settings
from schemas.topics import CATALOGUE, SHARDS, sized
from streams.topics import create_topics, shards_of


def topics(
    replication_factor: Annotated[
        int, typer.Option(min=1, max=100, help="Copies of each new topic; 3 in production.")
    ] = 1,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            show_default=str(SHARDS),
            help="How many processes can ever share the counting. Chosen once: it never changes.",
        ),
    ] = None,
) -> None:
    """Create the topics that METERLINE_BOOTSTRAP_SERVERS lacks. Safe to repeat.

    Existing topics are never changed.
    """
    kafka = read_settings().kafka()
    count = shards or shards_of(kafka)
    create_topics(kafka, sized(shards=count), replication_factor=replication_factor)
    typer.echo(f"Kafka has the {len(CATALOGUE)} topics of this version, with {count} shards.")
