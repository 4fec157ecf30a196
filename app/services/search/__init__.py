"""Search: the queue of what is to be indexed, its indexer, and finding messages, contacts and tags."""
