"""Statements: arrays as rows, pages, quick reads, and values as PostgreSQL takes them."""
