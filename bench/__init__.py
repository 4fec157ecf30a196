"""How fast the service accepts messages, measured against what bounds it on the same machine."""
