"""Requests to AWS, signed (Signature Version 4).

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html

These are forty lines of our own, which the tests compare with botocore. The signer of botocore can't be installed
alone: it comes with 30 MB, and it blocks.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """The account of a request. `session_token` belongs to temporary credentials."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def signed_headers(
    credentials: AwsCredentials, region: str, service: str, method: str, url: httpx.URL, body: bytes, now: datetime
) -> Mapping[str, str]:
    """The headers of a request with a JSON body, a plain path and no query. `now` is aware."""
    amz_date = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{amz_date[:8]}/{region}/{service}/aws4_request"
    headers = {
        "content-type": "application/json",
        "host": url.netloc.decode("ascii"),
        "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
        "x-amz-date": amz_date,
    }
    if credentials.session_token:
        headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(headers)  # in alphabetical order
    lines = [f"{name}:{value}" for name, value in headers.items()]
    canonical = "\n".join([method, url.path, "", *lines, "", names, headers["x-amz-content-sha256"]])
    to_sign = "\n".join([_ALGORITHM, amz_date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers
