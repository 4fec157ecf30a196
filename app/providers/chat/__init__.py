"""Contents of chat messages, rendered as plain text."""
