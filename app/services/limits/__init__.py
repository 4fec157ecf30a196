"""Limits: request rates, daily caps and failed keys."""
