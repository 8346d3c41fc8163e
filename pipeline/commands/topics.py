"""`meterline topics`: prepare a Kafka cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.settings import read_settings
from schemas.topics import CATALOGUE
from streams.topics import create_topics


def topics(
    replication_factor: Annotated[
        int, typer.Option(min=1, max=100, help="Copies of each new topic; 3 in production.")
    ] = 1,
) -> None:
    """Create the topics that METERLINE_BOOTSTRAP_SERVERS lacks. Safe to repeat.

    Existing topics are never changed.
    """
    create_topics(read_settings().kafka(), replication_factor=replication_factor)
    typer.echo(f"Kafka has the {len(CATALOGUE)} topics of this version.")
