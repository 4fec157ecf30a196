"""Backups of an installation: the database and the files of messages, taken while it runs, and their restore."""
