"""`python -m app doctor`: looks at an installation from inside, and says how to mend what it finds.

A check is a function that yields findings. It stands in one of the two lists in `examination`, under the name that it
is shown by. Nothing is changed, and nothing of messages is read but their counts and ages.
"""

from app.doctor.examination import Report, examine

__all__ = ["Report", "examine"]
