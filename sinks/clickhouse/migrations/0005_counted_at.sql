-- Which totals an event is in. Totals are versioned by offsets of usage.metered, so with its own
-- offset an event can be told to be in a total or to have come after it, at any moment and whatever
-- is on its way: `event.version <= total.version`, as a customer's events and totals have one shard.
-- A meter counts from the first pack that knows it, so the definitions stand beside.
ALTER TABLE events
    ADD COLUMN IF NOT EXISTS version UInt64 CODEC(Delta, ZSTD(1))
        COMMENT 'Totals of this or a higher version count it; 0 before this column was there',
    ADD COLUMN IF NOT EXISTS definitions LowCardinality(String)
        COMMENT 'Version of the definitions that it was counted by; empty before this column was there';
