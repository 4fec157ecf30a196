"""Things broken on purpose, and a count of what that loses: real processes, signals, and two ledgers.

One ledger is the client's: what was answered with 200. The other is the carrier's: what it accepted. Each fault
prints a line. `FAULTS=full`, which `make faults` sets, kills more often and sends more; without it a few kills each
are part of the normal tests.
"""
