"""The carrier simulator over HTTP, `python -m app simulate` (docs/simulator.md)."""
