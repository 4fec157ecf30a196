"""A messaging service that a team runs itself: SMS, MMS and email through one API, answers included."""

#: The version, and the only place that names it.
__version__ = "1.0.0"
