"""The vendors of this repository, as the contract test sees them: one `description()` in a file of its name each."""

from importlib import import_module

from app.testing.description import Description


def description_of(name: str) -> Description:
    """A vendor's description; fails with what to write where there is none."""
    module = f"{__name__}.{name}"
    try:
        described: Description = import_module(module).description()
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AssertionError(
            f"app/providers/{name}.py is a provider that the contract test knows nothing about. Write "
            f"tests/providers/kit/{name}.py with a function description() that returns a Description: what "
            "configures it, a message with its exact request, and its calls (docs/adding-a-provider.md shows one)."
        ) from None
    return described
