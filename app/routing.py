"""Routes: the providers of a channel, named by `ROUTES`, or else all configured ones that carry it."""

from app.config import Settings
from app.providers.registry import provider_registry

#: Takes the messages of test tenants, on every channel.
TEST_CARRIER = "test"


def route_of(settings: Settings, channel: str, *, is_test: bool = False) -> list[str]:
    """The providers that serve a channel, in order; with `is_test`, for a test tenant.

    Without a route in `ROUTES` these are the vendors that carry it, sorted by name. Without such vendors it is the
    provider with the channel's own name. Empty if there is none, or only a simulated carrier that may not take
    messages.
    """
    if is_test:
        return [TEST_CARRIER]
    named = settings.routes.get(channel)
    if named is not None:
        return named
    vendors = [
        name
        for name, provider in provider_registry.items()
        if channel in provider.channels and not provider.simulated
    ]
    if vendors:
        return sorted(vendors)
    own = provider_registry.get(channel)
    if own is None or (own.channels and channel not in own.channels):
        return []
    return [channel] if settings.simulates or not own.simulated else []


def channels_served(settings: Settings) -> set[str]:
    """Every channel with a provider, including those whose simulated carrier may not take messages.

    A provider that declares no channels serves those that `ROUTES` gives it, or else the channel of its own name.
    """
    named = {name for route in settings.routes.values() for name in route}
    carried = {
        channel for name, provider in provider_registry.items() for channel in provider.channels or ({name} - named)
    }
    return {*settings.routes, *carried}


def channels_of(settings: Settings, provider: str) -> list[str]:
    """The channels that have a provider anywhere in their routes."""
    return [channel for channel in sorted(channels_served(settings)) if provider in route_of(settings, channel)]


def kind_of_addresses(settings: Settings, channel: str) -> str | None:
    """The kind of the addresses of a channel, from the first provider of its route that declares one, or None."""
    providers = [provider_registry[name] for name in route_of(settings, channel) if name in provider_registry]
    return next((provider.channels[channel] for provider in providers if channel in provider.channels), None)
