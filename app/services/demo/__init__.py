"""The demo: people whom the simulated carriers play, so that a new installation shows how it works."""
