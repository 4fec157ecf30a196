"""The endpoints of pages besides those of the inbox itself: login, and what the inbox loads."""
