"""Idempotent rows for analysts, on a ClickHouse server or on the embedded engine."""
