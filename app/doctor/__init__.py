"""`python -m app doctor`: checks an installation, and says how to mend what it finds.

A check is a generator of findings, listed in `examination`; its name is shown with them. Checks change nothing, and
read only the counts and ages of messages.
"""

from app.doctor.examination import Report, examine

__all__ = ["Report", "examine"]
