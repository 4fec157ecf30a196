"""What the service does, independent of HTTP and of any provider."""
