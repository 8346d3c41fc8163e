"""How requests to a language model arrive and how large they are: a small model of a real trace.

Distilled from the Azure LLM inference trace 2023, code completion (8,819 requests in one hour;
https://github.com/Azure/AzurePublicDataset, CC-BY-4.0), in this way:

- A gap of at least one second is a *lull* and ends a *run* of requests. The trace has 141 runs of
  62 requests on average, with lulls of 19 s on average between them: this is its burst structure,
  and successive runs are uncorrelated.
- Five quantities are drawn independently (their measured correlations are below 0.13): the length
  of a run, the lull after it, the pause between two requests of a run, and a request's context and
  generated tokens. Each is kept as its quantiles at `PROBABILITIES`, and drawn by inverting them,
  linearly between two.

Arrivals a second have a variance of 9 times their mean, in the trace 13 times; without bursts
it would be once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

# fmt: off
PROBABILITIES = (
    0, .05, .1, .2, .3, .4, .5, .6, .7, .75, .8, .85, .9, .925, .95, .975, .99, .999, 1,
)
RUN_REQUESTS = (
    1, 2, 4, 9, 14, 20, 27, 39, 69, 78, 100, 129, 150, 159, 253, 298, 374, 551, 575,
)
LULL_SECONDS = (
    1.0, 1.1, 1.1, 1.6, 1.9, 2.4, 3.1, 5.6, 10.9, 18.1, 25.7, 39.2, 49.2, 68.2, 87.6, 141.4, 171.5,
    211.1, 217.2,
)
PAUSE_SECONDS = (
    0, .0001, .0002, .0012, .0032, .0122, .0594, .0944, .0997, .1025, .1379, .1963, .2226, .2958,
    .3368, .4803, .6449, .9045, 1.0,
)
CONTEXT_TOKENS = (
    3, 75, 147, 386, 770, 1075, 1469, 1909, 2433, 2744, 3192, 3920, 5188, 6097, 7303, 7435, 7436,
    7437, 7437,
)
GENERATED_TOKENS = (
    6, 6, 7, 8, 9, 11, 13, 16, 20, 24, 29, 39, 55, 69, 90, 145, 251, 825, 1899,
)
# fmt: on


class Request(NamedTuple):
    """One request: seconds since the one before, tokens read and tokens written."""

    gap_seconds: float
    context_tokens: int
    generated_tokens: int


def requests(random: Random) -> Iterator[Request]:
    """Requests without end, all from `random`; the first follows a lull."""
    while True:
        gap_seconds = draw(LULL_SECONDS, random)
        for _ in range(round(draw(RUN_REQUESTS, random))):
            yield Request(
                gap_seconds,
                round(draw(CONTEXT_TOKENS, random)),
                round(draw(GENERATED_TOKENS, random)),
            )
            gap_seconds = draw(PAUSE_SECONDS, random)


def draw(quantiles: Sequence[float], random: Random) -> float:
    """One value of the distribution that has these quantiles at `PROBABILITIES`."""
    probability = random.random()
    above = bisect_right(PROBABILITIES, probability)
    low, high = PROBABILITIES[above - 1], PROBABILITIES[above]
    share = (probability - low) / (high - low)
    return quantiles[above - 1] + share * (quantiles[above] - quantiles[above - 1])
