"""The ASGI layers in front of the endpoints: overload, admission, access, problems, and the HTTP/1.1 protocol."""
