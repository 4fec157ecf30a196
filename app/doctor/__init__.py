"""`python -m app doctor`: checks an installation, and says how to mend what it finds.

A check is a function that returns its finding, or yields several. `examination` lists the checks, whose names are
shown with the findings. They change nothing, and read only the counts and ages of messages.
"""

from app.doctor.examination import Report, examine

__all__ = ["Report", "examine"]
