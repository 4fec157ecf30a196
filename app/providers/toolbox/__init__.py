"""Tools of the vendors: HTTP, signatures, settings, files."""
