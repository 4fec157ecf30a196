"""Connections to addresses that strangers have chosen, without requests into our own network (SSRF).

A name is resolved once, and every address of it has to be public or in a network that is allowed. The connection goes
to the address that was checked, so a second answer of the DNS makes no difference.
"""

import asyncio
import re
import socket
import string
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urlsplit

import httpcore

#: Resolves a name to its addresses, as texts. Raises `OSError`.
Resolve = Callable[[str], Awaitable[Sequence[str]]]
Network = IPv4Network | IPv6Network

#: IPv6 networks that lead into IPv4: NAT64 (RFC 6052, RFC 8215) and the former IPv4-compatible addresses.
_INTO_IPV4 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))
_HOST = re.compile(r"[a-z0-9._:-]+")
LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


class Forbidden(Exception):
    """An address is neither public nor allowed."""

    def __init__(self) -> None:
        super().__init__("it is not on the public internet.")


async def resolve(name: str) -> Sequence[str]:
    """Resolve a name as the system does, with /etc/hosts and all spellings of addresses."""
    found = await asyncio.get_running_loop().getaddrinfo(name, 443, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to an address that it has checked. Raises `Forbidden` for others."""

    def __init__(
        self, resolve: Resolve, network: httpcore.AsyncNetworkBackend, *, allowed: Collection[Network] = ()
    ) -> None:
        self._resolve = resolve
        self._network = network
        self._allowed = allowed

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = list(await self._resolve(host))
        if not addresses:
            raise httpcore.ConnectError("The name has no address.")
        if not all(may_be_reached(address, self._allowed) for address in addresses):
            raise Forbidden
        return await self._network.connect_tcp(addresses[0], port, timeout, local_address, socket_options)


def may_be_reached(address: str, allowed: Collection[Network]) -> bool:
    """True for a public address, and for one of an allowed network in the form in which that is written."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in allowed) or is_public(address)


def is_public(address: str) -> bool:
    """True for a public address: not a private, local, shared, reserved or translated one."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and (
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip.is_site_local or any(ip in net for net in _INTO_IPV4)
    ):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def literal_address(host: str) -> str | None:
    """The address that a host is, in any spelling that a resolver reads without asking; None for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761
        return "127.0.0.1"
    try:
        return str(IPv4Address(socket.inet_aton(host)))  # 2130706433, 0x7f.1, 0177.0.0.1
    except (OSError, ValueError):
        return None


def target_of(url: str, *, schemes: Collection[str]) -> httpcore.URL:
    """The target of a request to an absolute URL without credentials. Raises `ValueError` for any other URL."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = parts.port
    except UnicodeError:
        raise ValueError("its host is not a name") from None
    if parts.scheme not in schemes or not _HOST.fullmatch(host) or port == 0 or "@" in parts.netloc:
        raise ValueError("it is not a plain one")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    quoted = quote(path, safe=string.punctuation)
    default = 443 if parts.scheme == "https" else 80
    return httpcore.URL(
        scheme=parts.scheme.encode(), host=host.encode(), port=port or default, target=quoted.encode()
    )
