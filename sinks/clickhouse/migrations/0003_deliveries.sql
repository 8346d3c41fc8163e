-- A delta has one identifier, and Stripe counts an identifier once. Its outcome may change (a held
-- one is settled later), so the newest wins.
CREATE TABLE IF NOT EXISTS deliveries (
    identifier String CODEC(ZSTD(1)) COMMENT 'Of (meter, customer, period, sequence); Stripe counts it once',
    customer String CODEC(ZSTD(1)) COMMENT 'Who is billed',
    stripe_customer_id String CODEC(ZSTD(1)) COMMENT 'The customer at Stripe',
    meter LowCardinality(String) COMMENT 'Slug of the meter',
    event_name LowCardinality(String) COMMENT 'Event name of the Stripe meter',
    period_start DateTime64(3, 'UTC') COMMENT 'First instant of the billed period',
    value Decimal(76, 9) COMMENT 'What this delta adds to the bill',
    outcome LowCardinality(String) COMMENT 'delivered, refused, or held: sent with an unknown end',
    reason String CODEC(ZSTD(1)) COMMENT 'Why it was not delivered',
    remedy String CODEC(ZSTD(1)) COMMENT 'What to do about it',
    at DateTime64(6, 'UTC') COMMENT 'When the outcome was known'
)
ENGINE = ReplacingMergeTree(at)
PARTITION BY toYYYYMM(period_start)
ORDER BY identifier
COMMENT 'What became of each delta sent to Stripe; the newest outcome under FINAL';
