"""Connections: how they are opened, pooled, and replaced, and what is known of a server that is away."""
