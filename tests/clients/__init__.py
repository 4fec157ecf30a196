"""Clients that are generated from the OpenAPI document, and the linters of such documents."""
