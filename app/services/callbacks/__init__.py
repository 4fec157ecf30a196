"""Callbacks of providers: verified, kept, read, stored and replayed."""
