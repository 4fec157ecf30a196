"""Figures of the whole installation: shared by the processes of a port, and written to the database by all."""
