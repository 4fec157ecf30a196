"""What vendors share: HTTP, signatures, settings, files."""
