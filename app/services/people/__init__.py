"""A person's data: contacts, export, erasure and retention."""
