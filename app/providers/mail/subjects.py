"""The subject of an answer."""
# ruff: noqa: RUF001 - the words are of many languages, and so are their letters

import re

#: A subject that is one of an answer already, behind marks such as [EXT].
_ANSWER = re.compile(
    r"\s*(?:\[[^\[\]]{0,60}\]\s*)*"
    r"(?:re|aw|antw?|antwort|sv|svar|vs|rv|r|rif|rép|res|resp|odp|vá|ynt|yan[ıi]t|cevap|atb|отв|ответ|απ|σχετ|"
    r"回复|回覆|答复|答覆|返信|답장|회신)(?:\s?[\[(^]\d{1,3}[\])]?)?\s?[:：]",
    re.IGNORECASE,
)
_LONGEST = 998  # RFC 5322, 2.1.1


def is_answer(subject: str) -> bool:
    """True for the subject of an answer, such as `Re: Greetings`."""
    return _ANSWER.match(subject) is not None


def answer_to(subject: str | None) -> str | None:
    """The subject of an answer to a mail with this subject; None if the mail has none.

    It begins with `Re: `, unless the subject is one of an answer already.
    """
    subject = (subject or "").strip()
    if not subject:
        return None
    return subject if is_answer(subject) else f"Re: {subject}"[:_LONGEST]
