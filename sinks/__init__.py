"""The outside world: ClickHouse and Stripe. Knows nothing of Kafka."""
