"""Figures of the running service: what is counted, and how Prometheus reads it."""
