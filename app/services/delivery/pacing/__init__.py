"""Pacing: how many sends each provider takes now, learned from its answers."""
