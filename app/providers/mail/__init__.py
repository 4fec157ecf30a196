"""What mail vendors share: composing and reading mail."""
