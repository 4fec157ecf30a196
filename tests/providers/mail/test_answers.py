"""The mails of ours that an inbound mail names."""

from app.providers.mail.answers import answered
from tests.cases import each_case


@each_case(
    "headers, expected",
    [
        ({"In-Reply-To": "<1-17-5@shop.example>"}, [("", "1-17-5")]),
        ({"IN-REPLY-TO": "Your mail <1-17-5-2@shop.example> of Monday"}, [("", "1-17-5-2")]),
        (
            {"References": "<1-3-5@shop.example>\r\n <x@y.example> <1-4-6@shop.example>"},
            [("", "1-4-6"), ("", "1-3-5")],
        ),
        (
            {"References": "<1-3-5@shop.example>", "In-Reply-To": "<1-4-6@shop.example>"},
            [("", "1-4-6"), ("", "1-3-5")],
        ),
        ({"In-Reply-To": "<0102abc-17-000000@eu-west-1.amazonses.com>"}, [("ses", "0102abc-17-000000")]),
        ({"In-Reply-To": "<0100abc@email.amazonses.com>"}, [("ses", "0100abc")]),
        (
            {"In-Reply-To": "<b7bc2f4a-e38e-4336-af7d-e6c392c2f817@mtasv.net>"},
            [("postmark", "b7bc2f4a-e38e-4336-af7d-e6c392c2f817")],
        ),
        ({"In-Reply-To": "<WrsKYRg1QkKgGlzdV7v4zw@geopod-ismtpd-4-0>"}, [("sendgrid", "WrsKYRg1QkKgGlzdV7v4zw")]),
        ({"In-Reply-To": "<CAF8vQx@mail.gmail.com>", "References": "<1-0-5@shop.example> 1-17-5 <1-17@x>"}, []),
        ({"In-Reply-To": "<0102abc@amazonses.com.evil.example>", "Message-ID": "<1-17-5@shop.example>"}, []),
        (
            {"References": "".join(f"<1-{number}-5@shop.example>" for number in range(1, 300))},
            [("", f"1-{number}-5") for number in range(299, 289, -1)],
        ),
    ],
)
def test_our_ids_are_found_the_answered_one_first(headers: dict[str, str], expected: list[tuple[str, str]]) -> None:
    assert answered(list(headers.items())) == expected
