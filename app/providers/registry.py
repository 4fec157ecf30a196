"""The providers by name. An entry adds one: `provider_registry["twilio"] = TwilioProvider()`.

A file in this package with a function `configured()` is found by its name. The function returns the provider, or None
where its settings are missing. Installed packages add further providers (`packages.py`).
"""

import pkgutil
from importlib import import_module

import app.providers
from app.providers.base import BaseProvider
from app.providers.email import EmailProvider
from app.providers.packages import packaged_providers
from app.providers.sms import SmsProvider
from app.providers.test_carrier import TestCarrier

#: A channel is served by the provider of its own name, unless `ROUTES` names others.
provider_registry: dict[str, BaseProvider] = {
    "sms": SmsProvider(),
    "email": EmailProvider(),
    "test": TestCarrier(),
}

_files = [file.name for file in pkgutil.iter_modules(app.providers.__path__) if file.name != "registry"]
for _name in _files:
    _configured = getattr(import_module(f"{app.providers.__name__}.{_name}"), "configured", None)
    if _configured is not None and (_provider := _configured()) is not None:
        provider_registry[_name] = _provider

#: The providers of installed packages, also those that are not used.
from_packages = packaged_providers(taken={*provider_registry, *_files})
provider_registry.update({each.name: each.provider for each in from_packages if each.provider is not None})
