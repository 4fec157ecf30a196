"""Connections: how they are opened, pooled and replaced, also to a replica. And outages, as the log tells them."""
