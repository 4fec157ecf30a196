"""Claiming: where queues begin, what a worker takes, in which order, and until when it is the worker's own."""
