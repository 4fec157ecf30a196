"""Tests of the inbox in a browser."""
