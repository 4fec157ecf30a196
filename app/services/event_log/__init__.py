"""Writing the event log: entries in the transaction of what they tell."""
