"""How fast the service accepts and delivers messages, measured against what bounds it on the same machine."""
