"""Pages, and the sessions of browsers."""
