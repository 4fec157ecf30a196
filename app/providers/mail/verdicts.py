"""The verdicts of vendors' filters as `spam` and `virus`, in one vocabulary: pass, fail, gray, unknown.

`gray` is a filter that could not decide, `unknown` one that failed. A filter that is switched off has no verdict.
"""

import math

from app.providers.mail.mime.headers import Headers, header

#: SpamAssassin's own limit, which SendGrid, Mailgun and Postmark have as well.
_SPAM_SCORE = 5.0
_SES = {"PASS": "pass", "FAIL": "fail", "GRAY": "gray", "PROCESSING_FAILED": "unknown"}


def by_score(written: str) -> dict[str, str]:
    """The verdict by a score of SpamAssassin; none if it can't be read."""
    try:
        score = float(written)
    except ValueError:
        return {}
    return {"spam": "fail" if score >= _SPAM_SCORE else "pass"} if math.isfinite(score) else {}


def of_headers(headers: Headers, flag: str, score: str) -> dict[str, str]:
    """The verdict by a header that begins with Yes or No, or else by one with the score. Names are in lower case."""
    answer = header(headers, flag).lower()
    if answer.startswith(("yes", "no")):
        return {"spam": "fail" if answer.startswith("yes") else "pass"}
    return by_score(header(headers, score))


def of_ses(*, spam: str, virus: str) -> dict[str, str]:
    """The verdicts by the words of SES."""
    return {name: _SES[word] for name, word in (("spam", spam), ("virus", virus)) if word in _SES}
