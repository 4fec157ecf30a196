"""The rules for a refusal that the team adds: whose address it is, and which messages it is about."""

from collections.abc import Set
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from app.addresses import InvalidAddress, any_address, contact_address
from app.consent import ConsentScope, ConsentSource
from app.domain import Address, AddressType
from app.errors import FieldError, InvalidRequest, ServiceError
from app.schemas.consent import NewSuppression
from app.schemas.fields import Topic
from app.services.consent.ledger import Said
from app.services.tenancy.addresses import AddressOwners

NOT_YOURS = FieldError("body.scope_value", "this address is not one of yours")
_topic = TypeAdapter(Topic)


@dataclass(frozen=True, slots=True)
class AdditionRules:
    """The rules for what `actor` adds to the refusals of a tenant.

    `region` is that of numbers without a country code, `channels` are those that a refusal may name.
    """

    tenant_id: int
    owners: AddressOwners
    channels: Set[str]
    region: str
    actor: str | None

    def read(self, content: NewSuppression | str) -> Said | str:
        """The statement for a line of a list, or the reason why it is refused."""
        if isinstance(content, str):
            return content
        try:
            return self.said(content, ConsentSource.IMPORT)
        except InvalidRequest as error:
            return reason_of(error)

    def said(self, new: NewSuppression, source: ConsentSource) -> Said:
        """The statement that a refusal is to be added as. Raises `InvalidRequest`."""
        try:
            address = _recipient(new.address, self.region)
        except InvalidAddress as error:
            raise _invalid(FieldError("body.address", str(error))) from None
        try:
            value = self._scope_value(new)
        except ValueError as error:
            raise _invalid(FieldError("body.scope_value", str(error))) from None
        return Said(address.value, address.type, source, new.scope, value, detail=new.detail, actor=self.actor)

    def _scope_value(self, new: NewSuppression) -> str:
        """The value of a scope as it is stored. Raises `ValueError` with a sentence."""
        value = new.scope_value
        if new.scope is ConsentScope.EVERYTHING:
            if value is not None:
                raise ValueError("leave it out for everything, or name a scope")
            return ""
        if value is None:
            raise ValueError(f"name the {new.scope}")
        if new.scope is ConsentScope.SENDER:
            return any_address(value, region=self.region).value
        if new.scope is ConsentScope.CHANNEL and value not in self.channels:
            raise ValueError(f"no provider here carries this channel; there are {', '.join(sorted(self.channels))}")
        if new.scope is ConsentScope.TOPIC and not _is_topic(value):
            raise ValueError("a topic has up to 63 characters: small letters, digits and `._-`")
        return value

    async def may_name(self, said: Said) -> bool:
        """False for a sender that is not the tenant's own."""
        if said.scope is not ConsentScope.SENDER:
            return True
        return await self.owners.tenant_of(any_address(said.scope_value, region=self.region)) == self.tenant_id


def reason_of(error: ServiceError) -> str:
    """The reason why a line is refused, in a sentence."""
    return "; ".join(map(in_words, error.errors)) or error.detail


def in_words(error: FieldError) -> str:
    """An error with the name of its field in front."""
    location = error.location.removeprefix("body").removeprefix(".")
    return f"{location}: {error.message}" if location else error.message


def _recipient(written: str, region: str) -> Address:
    """The address of a person, in any of its spellings. Raises `InvalidAddress`."""
    address = contact_address(written, region=region)
    if address.type == AddressType.GROUP:
        raise InvalidAddress("a group is written to as long as its members allow it; add each of them")
    if address.type == AddressType.PHONE and not address.value.removeprefix("+").isdecimal():
        raise InvalidAddress("this is a name: write a phone number, an email address, or `kind:value`")
    return address


def _is_topic(value: str) -> bool:
    try:
        _topic.validate_python(value)
    except ValidationError:
        return False
    return True


def _invalid(error: FieldError) -> InvalidRequest:
    location = error.location
    return InvalidRequest(f"One field is not as it should be. {location}: {error.message}.", errors=[error])
