"""The measurement of a request, which the outermost layer begins and inner layers add to."""

from starlette.types import Scope

#: The key of the scope under which a request is measured (`MeasuredRequest`).
MEASURED = "measured"


def note_route(scope: Scope, route: str) -> None:
    """Say which route a request is for, as a template."""
    if (measured := scope.get(MEASURED)) is not None:
        measured.route = route
