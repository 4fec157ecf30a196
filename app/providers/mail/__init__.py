"""Composing and reading mail, for all mail vendors."""
