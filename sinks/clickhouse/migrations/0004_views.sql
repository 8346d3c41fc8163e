-- What analysts read. Every view reads under FINAL, so each number in it is exact at any moment,
-- whatever has been merged so far.

CREATE OR REPLACE VIEW usage (
    customer String COMMENT 'Who used it',
    meter LowCardinality(String) COMMENT 'Slug of the meter',
    period_start DateTime64(3, 'UTC') COMMENT 'First instant of the period',
    period_end DateTime64(3, 'UTC') COMMENT 'First instant after the period',
    `group` Map(LowCardinality(String), String) COMMENT 'Dimension to value; empty without group_by',
    value Decimal(76, 9) COMMENT 'Exact value of the meter for this group',
    events UInt64 COMMENT 'How many events the value counts',
    as_of DateTime64(3, 'UTC') COMMENT 'Arrival of the last event in it'
)
AS SELECT customer, meter, period_start, period_end, `group`, value, events, as_of
FROM totals FINAL
COMMENT 'Current totals: one row a customer, meter, period and group';

-- Each row of totals carries the usage over all groups at its own version; the newest one is the
-- usage now. It is right for every aggregation, where a sum over groups is wrong for max or latest.
CREATE OR REPLACE VIEW usage_by_customer (
    customer String COMMENT 'Who used it',
    meter LowCardinality(String) COMMENT 'Slug of the meter',
    period_start DateTime64(3, 'UTC') COMMENT 'First instant of the period',
    period_end DateTime64(3, 'UTC') COMMENT 'First instant after the period',
    usage Decimal(76, 9) COMMENT 'Exact value of the meter over all groups: what limits and bills compare',
    events UInt64 COMMENT 'How many events the usage counts',
    as_of DateTime64(3, 'UTC') COMMENT 'Arrival of the last event in it'
)
AS SELECT
    totals.customer AS customer,
    totals.meter AS meter,
    totals.period_start AS period_start,
    any(totals.period_end) AS period_end,
    argMax(totals.usage, totals.version) AS usage,
    sum(totals.events) AS events,
    max(totals.as_of) AS as_of
FROM totals FINAL
GROUP BY totals.customer, totals.meter, totals.period_start
COMMENT 'Current usage over all groups: one row a customer, meter and period';

CREATE OR REPLACE VIEW events_by_day (
    customer String COMMENT 'Who used it',
    type LowCardinality(String) COMMENT 'What happened',
    day Date32 COMMENT 'Day of the event, UTC',
    events UInt64 COMMENT 'Accepted events of that day'
)
AS SELECT customer, type, toDate32(time) AS day, count() AS events
FROM events FINAL
GROUP BY customer, type, day
COMMENT 'Accepted events a customer, type and day';

CREATE OR REPLACE VIEW ledger (
    outcome String COMMENT 'accepted, duplicate, conflict, late, unknown or rejected',
    events UInt64 COMMENT 'Records of usage.events that ended so'
)
AS SELECT 'accepted' AS outcome, count() AS events FROM events FINAL
UNION ALL
SELECT 'duplicate', count() FROM set_aside FINAL WHERE status = 'duplicate'
UNION ALL
SELECT 'conflict', count() FROM set_aside FINAL WHERE status = 'conflict'
UNION ALL
SELECT 'late', count() FROM set_aside FINAL WHERE status = 'late'
UNION ALL
SELECT 'unknown', count() FROM set_aside FINAL WHERE status = 'unknown'
UNION ALL
SELECT 'rejected', count() FROM rejections FINAL
COMMENT 'Where every record of usage.events went: the sum over all outcomes is what was sent';
