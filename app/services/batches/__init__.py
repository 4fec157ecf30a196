"""Batches: messages that are sent together, their progress, and pausing, resuming and canceling them."""
