"""Kafka: producing, the transactional shell, the stages that run in it, delivery, the watch."""
