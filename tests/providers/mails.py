"""Files of mails, without a network, and headers."""

from collections.abc import Sequence

from app.providers.toolbox.remote_files import RemoteFile, RemoteFiles

FILES = [RemoteFile("Prüfung.pdf", "application/pdf", b"%PDF\r\n\x00\xff"), RemoteFile("a.txt", "text/plain", b"a\n")]
UNSUBSCRIBE = {
    "List-Unsubscribe": "<https://messages.example/u/token>, <mailto:shop@example.com?subject=unsubscribe%20token>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
}


class FileStore(RemoteFiles):
    """Has the same files for every URL."""

    def __init__(self) -> None:
        super().__init__(timeout_seconds=1, most_bytes=1)

    async def fetch(self, urls: Sequence[str], *, within_seconds: float | None = None) -> list[RemoteFile]:
        return list(FILES) if urls else []
