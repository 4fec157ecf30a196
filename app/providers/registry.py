"""The providers by name. One entry adds one: `provider_registry["twilio"] = TwilioProvider()`."""

from app.providers.base import BaseProvider
from app.providers.email import EmailProvider
from app.providers.sms import SmsProvider

#: A channel is served by the provider of its own name, unless `ROUTES` names another.
provider_registry: dict[str, BaseProvider] = {
    "sms": SmsProvider(),
    "email": EmailProvider(),
}
