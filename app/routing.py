"""Who serves a channel: the providers that `ROUTES` names, or those that are configured and carry it."""

from app.config import Settings
from app.providers.registry import provider_registry


def route_of(settings: Settings, channel: str) -> list[str]:
    """The providers that serve a channel, in order.

    Without a route in `ROUTES` these are the vendors that carry it, by name; without such vendors, the provider of
    the channel's own name. Empty where that is nobody, or a simulated carrier which may not take messages.
    """
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
    """Every channel that somebody here is for, also one that takes no messages because its carrier is simulated.

    A provider that does not say what it carries is for what `ROUTES` has it for, or else for the channel of its name.
    """
    named = {name for route in settings.routes.values() for name in route}
    carried = {
        channel for name, provider in provider_registry.items() for channel in provider.channels or ({name} - named)
    }
    return {*settings.routes, *carried}


def channels_of(settings: Settings, provider: str) -> list[str]:
    """The channels that a provider serves, at whatever place of their routes."""
    return [channel for channel in sorted(channels_served(settings)) if provider in route_of(settings, channel)]


def kind_of_addresses(settings: Settings, channel: str) -> str | None:
    """The kind of address that a channel has at both ends, as the first of its route says; None if none says."""
    providers = [provider_registry[name] for name in route_of(settings, channel) if name in provider_registry]
    return next((provider.channels[channel] for provider in providers if channel in provider.channels), None)
