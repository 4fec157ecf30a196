"""Accepting messages: group commit into conversations."""
