"""Tenants, their keys and addresses, and the audit log."""
