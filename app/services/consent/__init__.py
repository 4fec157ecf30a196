"""Consent: the keywords by which people opt out, opt in again and ask for help."""
