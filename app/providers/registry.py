"""The providers by name. An entry adds one: `provider_registry["twilio"] = TwilioProvider()`.

A file in this package with a function `configured()` is found by its name. The function returns the provider, or None
where its settings are missing.
"""

import pkgutil
from importlib import import_module

import app.providers
from app.providers.base import BaseProvider
from app.providers.email import EmailProvider
from app.providers.sms import SmsProvider

#: A channel is served by the provider of its own name, unless `ROUTES` names others.
provider_registry: dict[str, BaseProvider] = {
    "sms": SmsProvider(),
    "email": EmailProvider(),
}

for _file in pkgutil.iter_modules(app.providers.__path__):
    if _file.name != "registry":
        _configured = getattr(import_module(f"{app.providers.__name__}.{_file.name}"), "configured", None)
        if _configured is not None and (_provider := _configured()) is not None:
            provider_registry[_file.name] = _provider
