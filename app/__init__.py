"""A messaging service that a team runs itself: SMS, MMS and email through one API, answers included."""
