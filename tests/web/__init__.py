"""Pages that are made without a request."""
