"""Delivering messages: the queue, attempts, retries, receipts and provider health."""
