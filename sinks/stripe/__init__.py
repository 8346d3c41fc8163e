"""Frozen deltas become Stripe meter events, each counted once."""
