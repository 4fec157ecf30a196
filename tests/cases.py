"""One test over a table of cases, where a test for each case would cost more than the case."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import pytest

Result = TypeVar("Result")


def each_case(
    names: str | Sequence[str], rows: Iterable[Any], *, ids: Any = None
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Run a test with every row, as `pytest.mark.parametrize` would, but as one test that names all failing rows.

    The rows share the fixtures, so no row may depend on what another one has left behind. A test that needs a fresh
    database or a fresh patch for each row stays parametrised. Two tables on one test give every combination.
    """
    arguments = names.replace(" ", "").split(",") if isinstance(names, str) else [*names]
    cases = [*_cases(arguments, [*rows], ids)]
    assert cases, f"a table of {names} without a row proves nothing"

    def over_rows(test: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(test):

            @wraps(test)
            async def run_async(**fixtures: object) -> None:
                failures: list[Exception] = []
                for label, case in cases:
                    with _collected(failures, label):
                        await test(**fixtures, **case)
                _report(failures)

            run: Callable[..., Any] = run_async
        else:

            @wraps(test)
            def run_sync(**fixtures: object) -> None:
                failures: list[Exception] = []
                for label, case in cases:
                    with _collected(failures, label):
                        test(**fixtures, **case)
                _report(failures)

            run = run_sync
        signature = inspect.signature(test)
        fixtures = [each for name, each in signature.parameters.items() if name not in arguments]
        run.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return run

    return over_rows


def _cases(arguments: list[str], rows: list[Any], ids: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A label and the arguments of each row, which may be a `pytest.param` with an id."""
    labels = [None] * len(rows) if ids is None or callable(ids) else [*ids]
    for row, label in zip(rows, labels, strict=True):
        named = getattr(row, "id", None) if isinstance(row, type(pytest.param())) else None
        values = row.values if isinstance(row, type(pytest.param())) else row
        if len(arguments) == 1 and values is row:
            values = (row,)
        case = dict(zip(arguments, values, strict=True))
        yield str(named or label or f"{case!r:.300}"), case


@contextmanager
def _collected(failures: list[Exception], label: str) -> Iterator[None]:
    try:
        yield
    except pytest.fail.Exception as failure:
        failures.append(AssertionError(f"{label}: {failure}"))
    except Exception as failure:
        failure.add_note(f"in the row {label}")
        failures.append(failure)


def _report(failures: list[Exception]) -> None:
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise ExceptionGroup(f"{len(failures)} rows fail", failures)
