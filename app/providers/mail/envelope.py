"""Addresses as servers and vendors take them (RFC 5321, 4.1.2), also those that are valid only between quotes.

Every person who can write to us can be answered: `jane..x@docomo.example`, `"jane roe"@b.example`, `root@localhost`.
"""

import re
import unicodedata
from functools import lru_cache

from email_validator import EmailNotValidError, validate_email

#: Characters of a local part that need no quotes: atext (RFC 5322, 3.2.3), and letters outside of ASCII (RFC 6531).
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_QUOTED_PAIR = re.compile(r"\\(.)")
_NEEDS_A_BACKSLASH = re.compile(r'["\\]')
_NOT_WITHOUT_QUOTES = re.compile(r'[\s<>"]')
#: A host without a dot, and names with an underscore, which no registry gives out.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LONGEST_HOST = 253


@lru_cache(maxsize=4096)
def mailbox_of(address: str) -> str | None:
    """The mailbox behind an address, with its domain in ASCII (IDNA 2008); None for what is no address.

    The local part is in Unicode, and in quotes only where it has to be: `"jane..x"@example.com`.
    """
    written, _, domain = address.rpartition("@")
    quoted = _QUOTED.fullmatch(written)
    local = unicodedata.normalize("NFC", _QUOTED_PAIR.sub(r"\1", quoted[1]) if quoted else written)
    host = ascii_domain(domain)
    if host is None or not local.isprintable() or (not quoted and (not local or _NOT_WITHOUT_QUOTES.search(local))):
        return None
    if not _DOT_STRING.fullmatch(local):
        local = f'"{_NEEDS_A_BACKSLASH.sub(_escaped, local)}"'
    return f"{local}@{host}"


def ascii_domain(written: str) -> str | None:
    """A domain in ASCII, or an address literal such as `[192.0.2.1]`; None for anything else."""
    try:
        # `test_environment` only admits the reserved domain .test, which reaches nobody.
        return validate_email(
            f"postmaster@{written}", check_deliverability=False, test_environment=True, allow_domain_literal=True
        ).ascii_domain
    except EmailNotValidError:
        host = written.lower()
        return host if len(host) <= _LONGEST_HOST and _HOST.fullmatch(host) else None


def _escaped(character: re.Match[str]) -> str:
    return f"\\{character[0]}"
