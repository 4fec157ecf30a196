"""The HTTP surface: each endpoint is its parameters, its answer and one call."""
