"""A segment of tally's changelog: what one transaction changed in one shard, or repeats of it.

Header: `shard` and `shards` (whose state this is, of how many), `from_offset` (the shard offset to
which the state before had come), `next_offset` (the one to go on from), `part` and `parts` (one
change may take several segments; counted from 0), `watermark_ms` (the newest arrival seen),
`since_snapshot` (what reading the changelog from the begin of the last snapshot takes, in
identities), `definitions` (documents that became known, by version), `current` (the version that
holds now), `slots` (how large the table of identities is by now, so that a restore need not let it
grow step by step), `begins` and `completes`.

A snapshot repeats all that is known, a piece with each transaction, among the segments of what
changes meanwhile. Reading may start at the segment that `begins` one; with the one that `completes`
it, and with all between, everything is there. A segment that repeats has `from_offset` and
`next_offset` alike.

So a reader notices when a segment is missing, or is of another shard or another number of shards.
"""

from __future__ import annotations

import pyarrow as pa

ID_COLUMNS = pa.schema(
    [
        pa.field("id_high", pa.uint64(), nullable=False),
        pa.field("id_low", pa.uint64(), nullable=False),
        pa.field("fingerprint", pa.uint32(), nullable=False),
        # Days since 1970 after which no copy can count any more.
        pa.field("expires_day", pa.uint16(), nullable=False),
    ]
)

#: Totals of a shard have numbers, their `row`, in the order in which they came into being. Where
#: one comes for the first time, `customer`, `meter`, `period_start_ms` and `group` say which it is;
#: later on they are null. `group` is null on the row over all groups, which is what limits compare;
#: `fired` lists the thresholds that it has crossed, null for none. `nanos` are of 10^-9; a value
#: that 64 bits cannot hold is the decimal in `wide`. `latest_ns` is the time of the event that
#: holds a `latest` value.
TOTAL_COLUMNS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("customer", pa.string()),
        pa.field("meter", pa.string()),
        pa.field("period_start_ms", pa.int64()),
        pa.field("group", pa.list_(pa.string())),
        pa.field("nanos", pa.int64(), nullable=False),
        pa.field("wide", pa.string()),
        pa.field("events", pa.int64(), nullable=False),
        pa.field("latest_ns", pa.int64(), nullable=False),
        pa.field("as_of_ms", pa.int64(), nullable=False),
        pa.field("fired", pa.list_(pa.string())),
    ]
)
