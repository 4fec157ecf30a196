"""The service's speed in accepting, reading and delivering messages, compared with its bounds on the same machine."""
