-- Totals are absolute and versioned, never deltas: writing one twice changes nothing, and of two
-- versions the newer one wins whatever the order of their inserts. A summing table or view would
-- count every retry.

-- A customer's totals are read together, hence customer first. group_key is the group as a text,
-- because a Map cannot be part of a key. Versions are offsets of one shard; a customer has one
-- shard for ever, so versions of one key can be compared.
CREATE TABLE IF NOT EXISTS totals (
    customer String CODEC(ZSTD(1)) COMMENT 'Who used it',
    meter LowCardinality(String) COMMENT 'Slug of the meter',
    period_start DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'First instant of the period',
    period_end DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'First instant after the period',
    `group` Map(LowCardinality(String), String) COMMENT 'Dimension to value; empty without group_by',
    group_key String CODEC(ZSTD(1)) COMMENT 'The group as JSON with sorted names',
    value Decimal(76, 9) COMMENT 'Exact value of the meter for this group',
    usage Decimal(76, 9) COMMENT 'Value over all groups at this version; see the view usage_by_customer',
    events UInt64 COMMENT 'How many events the value counts',
    as_of DateTime64(3, 'UTC') COMMENT 'Arrival of the last event in it',
    version UInt64 COMMENT 'Grows with every change of this total'
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(period_start)
ORDER BY (customer, meter, period_start, group_key)
COMMENT 'Totals; the newest version of each under FINAL';

-- The key is what an alert is once for.
CREATE TABLE IF NOT EXISTS alerts (
    customer String COMMENT 'Whose usage reached a threshold',
    meter LowCardinality(String) COMMENT 'Slug of the meter',
    period_start DateTime64(3, 'UTC') COMMENT 'First instant of the period',
    period_end DateTime64(3, 'UTC') COMMENT 'First instant after the period',
    plan LowCardinality(String) COMMENT 'The plan that held when it crossed',
    `limit` Decimal(76, 9) COMMENT 'What the plan allows in the period',
    threshold LowCardinality(String) COMMENT 'As in the plan: a percentage or a quantity',
    value Decimal(76, 9) COMMENT 'Usage right after the event that crossed',
    crossed_at DateTime64(3, 'UTC') COMMENT 'Arrival of the event that crossed',
    event_source String COMMENT 'Source of the event that crossed',
    event_id String COMMENT 'Id of the event that crossed'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(period_start)
ORDER BY (customer, meter, period_start, threshold)
COMMENT 'Crossed thresholds, one row each under FINAL';
