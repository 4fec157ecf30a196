"""Files of messages: stored, fetched from vendors, uploaded by clients, removed with their messages."""
