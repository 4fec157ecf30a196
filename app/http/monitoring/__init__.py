"""Layers of ASGI for numbers and traces, and the port at which numbers are read."""
