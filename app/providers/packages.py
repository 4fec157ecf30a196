"""Providers of installed packages, which name them as entry points of the group `messaging.providers`.

The entry point has the name of the provider. Its object is called without arguments, as the `configured()` of a file
in this folder is. It returns the provider, or None where the settings of the provider are missing.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.providers.base import BaseProvider

GROUP = "messaging.providers"

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")  # as addresses of webhooks and the database take it
#: The errors whose text says what is wrong with a package. The text of any other may quote a secret.
_SHOWN = (ImportError, AttributeError, TypeError, SyntaxError)


@dataclass(frozen=True, slots=True)
class PackagedProvider:
    """An entry point and its package, such as `messaging-acme 1.2.0`.

    `provider` is None if its settings are missing. `fault` is a sentence on an entry point that can't be used.
    """

    name: str
    package: str
    provider: BaseProvider | None = None
    fault: str | None = None


def packaged_providers(taken: Collection[str]) -> list[PackagedProvider]:
    """The providers of all installed packages, by name; `taken` are names that are not free.

    Raises:
        ValidationError: a setting of a provider is wrong.
        SettingsError: a setting of a provider is no JSON.
    """
    found: list[PackagedProvider] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, _package_of(entry))):
        others = {each.name: each.package for each in found}
        found.append(_packaged(entry, "this service" if entry.name in taken else others.get(entry.name)))
    return found


def _packaged(entry: EntryPoint, owner: str | None) -> PackagedProvider:
    package = _package_of(entry)
    said = f"The package {package} offers the provider {entry.name}"
    if not _NAME.fullmatch(entry.name):
        fault = f"{said}, which is no name for one: it begins with a-z, and has a-z, 0-9, _ and - only."
        return PackagedProvider(entry.name, package, fault=fault)
    if owner is not None:
        return PackagedProvider(entry.name, package, fault=f"{said}, but that name is taken by {owner}.")
    try:
        made = entry.load()()
    except (ValidationError, SettingsError):  # of its settings, as those of any provider
        raise
    except Exception as error:  # of any kind, because it is another's code
        reason = f"{type(error).__name__}: {error}" if isinstance(error, _SHOWN) else type(error).__name__
        return PackagedProvider(entry.name, package, fault=f"{said}, but {entry.value} fails with {reason}.")
    if made is None or isinstance(made, BaseProvider):
        return PackagedProvider(entry.name, package, provider=made)
    kind = type(made).__name__
    return PackagedProvider(entry.name, package, fault=f"{said}, but {entry.value} makes a {kind}, no BaseProvider.")


def _package_of(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
