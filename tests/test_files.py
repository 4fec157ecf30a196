"""The words of files: which attachments are files of ours, and addresses that are signed."""

import pytest

from app.files import FileAddresses, file_id_in, file_ids_in, path_of
from tests.cases import each_case

ID = "0123456789abcdef" * 4
PATH = path_of(ID, "Menü & mehr.pdf")
NOW = 1_800_000_000.0
HOUR = 3600


def addresses(*secrets: str, url: str | None = "https://messages.example/base/") -> FileAddresses:
    return FileAddresses(secrets or ("secret",), url, hours=24)


def parts(url: str) -> tuple[str, bytes]:
    path, _, query = url.removeprefix("https://messages.example/base").partition("?")
    return path, query.encode()


def signed(tenant_id: int = 7, *, by: FileAddresses | None = None, now: float = NOW) -> str:
    url = (by or addresses()).signed(tenant_id, PATH, now=now)
    assert url is not None
    return url


def test_a_path_names_a_file() -> None:
    assert f"/api/files/{ID}/Men%C3%BC%20%26%20mehr.pdf" == PATH
    assert file_id_in(PATH) == ID
    assert file_ids_in(["https://files.example/1", PATH, PATH]) == [ID]


@each_case(
    "attachment",
    [
        f"https://messages.example{PATH}",
        f"/api/files/{ID}",
        f"/api/files/{ID}/",
        f"/api/files/{ID}/a/b",
        f"/api/files/{ID}/a?b",
        f"/api/files/{ID}/a b",
        f"/api/files/{ID.upper()}/a",
        f"/api/files/{ID[:-1]}/a",
        f"/api/files/{ID}/a\n",
        f"//api/files/{ID}/a",
        f" /api/files/{ID}/a",
        "",
    ],
)
def test_nothing_else_does(attachment: str) -> None:
    assert file_id_in(attachment) is None


def test_an_address_is_the_same_for_a_time_and_valid_for_longer() -> None:
    begin = NOW // (24 * HOUR) * 24 * HOUR
    urls = {signed(now=begin + seconds) for seconds in (0, 1, 23 * HOUR, 24 * HOUR - 1)}
    assert len(urls) == 1
    path, query = parts(urls.pop())
    for hours, tenant in ((0, 7), (47.9, 7), (48, None), (1000, None)):
        assert addresses().tenant_of(path, query, now=begin + hours * HOUR) == tenant


def test_a_secret_is_rotated() -> None:
    path, query = parts(signed(by=addresses("old")))
    assert addresses("new", "old").tenant_of(path, query, now=NOW) == 7
    assert addresses("new").tenant_of(path, query, now=NOW) is None
    assert parts(signed(by=addresses("new", "old"))) == parts(signed(by=addresses("new")))


def test_without_a_public_url_there_is_no_address() -> None:
    assert addresses(url=None).signed(7, PATH) is None
    assert addresses().signed(7, "https://files.example/1") is None


@pytest.mark.parametrize("name", ["a", "Men%C3%BC", "x.exe"])
def test_the_name_is_not_signed_because_the_file_has_its_own(name: str) -> None:
    _, query = parts(signed())
    assert addresses().tenant_of(f"/api/files/{ID}/{name}", query, now=NOW) == 7


@each_case(
    ("old", "new"),
    [
        ("tenant=7", "tenant=8"),
        ("tenant=7", "tenant=07"),
        ("tenant=7", "tenant=7&tenant=7"),
        ("tenant=7", "tenant=7&x=1"),
        ("tenant=7&", ""),
        ("expires=1", "expires=2"),
        ("expires=1", "expires=+1"),
        ("expires=1", "expires="),
        ("signature=", "signature=A"),
        ("signature=", "Signature="),
        ("signature=", "signature=%C3%A9"),
        ("signature=", "signature=\xff"),
    ],
)
def test_what_is_changed_is_not_ours(old: str, new: str) -> None:
    path, query = parts(signed())
    changed = query.decode().replace(old, new, 1).encode("latin-1")
    assert changed != query
    assert addresses().tenant_of(path, changed, now=NOW) is None
    assert addresses().tenant_of(path.replace(ID[:2], "00"), query, now=NOW) is None
