"""Providers: one file for each vendor, the contract in `base`, and the registry."""
