"""The simulated carriers that run in the process."""
