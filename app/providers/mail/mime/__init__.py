"""A raw mail as headers, texts and files, on every Python alike (RFC 5322, MIME)."""
