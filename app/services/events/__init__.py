"""Readers of the event log: pages, streams, and signed webhooks."""
