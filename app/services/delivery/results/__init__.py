"""Results of attempts: the decision on each, its record, and the receipts that come later."""
