"""Reading messages, conversations and files, and acting on a message."""
