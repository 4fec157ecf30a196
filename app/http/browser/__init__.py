"""The pages that a browser shows: cookies, sessions, the token of forms, headers, errors."""
