-- Every record of usage.events ends as one row in one of three tables: it counts (events), it does
-- not count (set_aside), or it could not be read (rejections).
--
-- All tables of Meterline are ReplacingMergeTree with rows that say the same however often they are
-- written. A sink that crashed writes its last rows again, and FINAL (or a background merge) keeps
-- one of each. No insert token is needed for that, so non_replicated_deduplication_window stays 0.

-- The page of one customer is what is read most: (customer, type, time) keeps its rows together.
-- (source, id) closes the key because it is the event's identity: two rows of one event become one.
CREATE TABLE IF NOT EXISTS events (
    customer String CODEC(ZSTD(1)) COMMENT 'The CloudEvents subject: who used it',
    type LowCardinality(String) COMMENT 'What happened; a meter counts events of one type',
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When it was used; decides the period',
    source LowCardinality(String) COMMENT 'The service that observed it; (source, id) is the identity',
    id String CODEC(ZSTD(1)) COMMENT 'Unique within its source',
    data String CODEC(ZSTD(3)) COMMENT 'JSON text, byte for byte as it was sent; empty without data',
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'Arrival: timestamp of the Kafka record',
    source_partition UInt32 COMMENT 'Partition of usage.events',
    source_offset UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'Offset in that partition',
    late_for Array(LowCardinality(String)) COMMENT 'Meters that no longer count it; all others do'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
PRIMARY KEY (customer, type, time)
ORDER BY (customer, type, time, source, id)
COMMENT 'Accepted events, one row each under FINAL';

-- Copies share an identity with the event that counts, so the key is where each one was read.
-- Not partitioned: arrival times are set by producers, and a hostile one could open a partition
-- for every month there is.
CREATE TABLE IF NOT EXISTS set_aside (
    status Enum8('duplicate' = 1, 'conflict' = 2, 'late' = 3, 'unknown' = 4)
        COMMENT 'duplicate: a resend. conflict: a known (source, id) that says something else. late: too late for every meter. unknown: no such customer',
    customer String CODEC(ZSTD(1)) COMMENT 'The CloudEvents subject',
    type LowCardinality(String) COMMENT 'What happened',
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When it was used',
    source LowCardinality(String) COMMENT 'The service that observed it',
    id String CODEC(ZSTD(1)) COMMENT 'Unique within its source',
    data String CODEC(ZSTD(3)) COMMENT 'JSON text, byte for byte as it was sent',
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'Arrival: timestamp of the Kafka record',
    source_partition UInt32 COMMENT 'Partition of usage.events',
    source_offset UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'Offset in that partition'
)
ENGINE = ReplacingMergeTree
ORDER BY (source_partition, source_offset)
COMMENT 'Events that did not count, one row each under FINAL';

-- What was rejected has no identity that could be read, only a place. Not partitioned, as above.
CREATE TABLE IF NOT EXISTS rejections (
    source_partition UInt32 COMMENT 'Partition of usage.events',
    source_offset UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'Offset in that partition',
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'Arrival: timestamp of the Kafka record',
    reason LowCardinality(String) COMMENT 'Stable code of what is wrong',
    message String CODEC(ZSTD(1)) COMMENT 'What is wrong, in words',
    remedy String CODEC(ZSTD(1)) COMMENT 'What its sender can do about it',
    original String CODEC(ZSTD(3)) COMMENT 'The value of the Kafka record byte for byte; any bytes'
)
ENGINE = ReplacingMergeTree
ORDER BY (source_partition, source_offset)
COMMENT 'Records that could not be read as usage events, one row each under FINAL';
