"""Connections: how they are opened, pooled and replaced, also those to a replica."""
