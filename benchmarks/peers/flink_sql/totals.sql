-- Usage per customer, event type and month, each (source, id) once within 35 days.

CREATE TABLE events (
  id STRING,
  source STRING,
  type STRING,
  subject STRING,
  `time` STRING,
  data ROW<`value` BIGINT>,
  arrived AS PROCTIME()
) WITH (
  'connector' = 'kafka',
  'topic' = '${input}',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.group.id' = '${name}',
  'properties.isolation.level' = 'read_committed',
  'properties.fetch.min.bytes' = '262144',
  'properties.fetch.max.wait.ms' = '50',
  'properties.max.partition.fetch.bytes' = '4194304',
  'properties.max.poll.records' = '5000',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json'
);

CREATE TABLE totals (
  customer STRING,
  type STRING,
  `month` STRING,
  `value` BIGINT,
  events BIGINT,
  PRIMARY KEY (customer, type, `month`) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = '${output}',
  'properties.bootstrap.servers' = '${bootstrap}',
  'properties.transaction.timeout.ms' = '600000',
  'properties.compression.type' = 'lz4',
  'properties.linger.ms' = '100',
  'properties.batch.size' = '262144',
  'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = '${name}',
  'sink.buffer-flush.max-rows' = '50000',
  'sink.buffer-flush.interval' = '1s',
  'key.format' = 'json',
  'value.format' = 'json'
);

INSERT INTO totals
SELECT subject, type, `month`, SUM(`value`), COUNT(*)
FROM (
  SELECT
    subject,
    type,
    SUBSTRING(`time`, 1, 7) AS `month`,
    data.`value` AS `value`,
    ROW_NUMBER() OVER (PARTITION BY source, id ORDER BY arrived ASC) AS copy
  FROM events
)
WHERE copy = 1
GROUP BY subject, type, `month`;
