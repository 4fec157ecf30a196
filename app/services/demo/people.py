"""The people of the demo, and what they write to a bakery and get from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain import Channel, Direction

#: The addresses of the bakery.
OUR_NUMBER, OUR_MAIL = "+12016661234", "hello@bluedoor-bakery.example"
#: The simulated carrier lets this person answer STOP, a moment after the message.
REFUSING = "+15005553001"
_IN, _OUT = Direction.INBOUND, Direction.OUTBOUND


@dataclass(frozen=True, slots=True)
class Line:
    """A message of the demo, which is so many minutes old; `subject` is that of a mail."""

    direction: Direction
    minutes_ago: int
    body: str
    subject: str | None = None
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """A person of the demo. The address selects how the simulated carrier treats what is sent there."""

    name: str
    address: str
    lines: Sequence[Line]

    @property
    def channel(self) -> Channel:
        return Channel.EMAIL if "@" in self.address else Channel.SMS


_DAY = 24 * 60

#: In the order of their last messages, the oldest first.
PEOPLE: Sequence[Person] = (
    Person(
        "Tom Baker",
        "+15005550011",
        [
            Line(_OUT, 9 * _DAY, "Your sourdough starter is ready for collection. Blue Door Bakery"),
            Line(_IN, 9 * _DAY - 40, "Great, I'll come by after work."),
            Line(_OUT, 9 * _DAY - 55, "See you then!"),
        ],
    ),
    Person(
        "Aiko Tanaka",
        "+15005550012",
        [
            Line(_IN, 6 * _DAY, "すみません、日曜日は開いていますか。"),
            Line(_OUT, 6 * _DAY - 12, "はい、日曜日は8時から13時まで開いています。"),
            Line(_IN, 6 * _DAY - 14, "ありがとうございます。"),
        ],
    ),
    Person(
        "Miguel Santos",
        "ok+miguel@simulator.test",
        [
            Line(
                _IN,
                4 * _DAY,
                "Hello,\n\nwe are 35 people in the office and would like fresh bread every Monday and Thursday, "
                "from January on. Do you deliver, and what would that cost?\n\nBest regards\nMiguel Santos",
                "Bread for our office",
            ),
            Line(
                _OUT,
                4 * _DAY - 150,
                "Hello Miguel,\n\nwith pleasure. For 35 people we bring six loaves and a tray of rolls, at 64.00 "
                "a delivery. Delivery is free within five miles.\n\nKind regards\nBlue Door Bakery",
                "Re: Bread for our office",
            ),
            Line(
                _IN,
                3 * _DAY,
                "That sounds good. I'll ask my colleagues and come back to you this week.",
                "Re: Bread for our office",
            ),
        ],
    ),
    Person(
        "Grace Okafor",
        "+15005552501",
        [Line(_OUT, 2 * _DAY, "Hi Grace, your order of 24 cupcakes is confirmed for Saturday, 10:00.")],
    ),
    Person(
        "Lena Fischer",
        "bounced+lena@simulator.test",
        [
            Line(
                _OUT,
                _DAY + 300,
                "Dear Lena,\n\nplease find our price list for wedding cakes below.\n\nTwo tiers: from 180.00\n"
                "Three tiers: from 260.00\n\nBlue Door Bakery",
                "Our wedding cakes",
            )
        ],
    ),
    Person(
        "Oliver Brown",
        REFUSING,
        [
            Line(
                _OUT, _DAY + 60, "This week: cinnamon rolls, 3 for 2. Reply STOP to end these texts.", topic="offers"
            ),
        ],
    ),
    Person(
        "Sofia Rossi",
        "ok+sofia@simulator.test",
        [
            Line(
                _IN,
                _DAY,
                "Hi,\n\nthe birthday cake yesterday was wonderful, my daughter loved it. Thank you so much!\n\nSofia",
                "Thank you",
            )
        ],
    ),
    Person(
        "Noah Williams",
        "+15005550401",
        [Line(_OUT, 200, "Hi Noah, your invoice for November is ready: 84.20. Blue Door Bakery")],
    ),
    Person(
        "Emma Larsen",
        "+15005551301",
        [Line(_OUT, 90, "Hi Emma, we have found your umbrella. It waits for you at the counter.")],
    ),
    Person(
        "Daniel Kim",
        "+15005550014",
        [
            Line(_OUT, 75, "Your table for two is reserved for Friday, 9:30. Blue Door Bakery"),
            Line(_IN, 32, "Could we make it four people instead?"),
        ],
    ),
    Person(
        "Priya Sharma",
        "ok+priya@simulator.test",
        [
            Line(
                _IN,
                18,
                "Good morning,\n\nI ordered a chocolate cake for tomorrow (order 4711). Could you write "
                "“Happy 60th, Dad” on it? And is it free of nuts? My father is allergic.\n\nMany thanks\nPriya",
                "Order 4711: writing on the cake",
            )
        ],
    ),
    Person(
        "Jane Miller",
        "+15005550016",
        [
            Line(_IN, 6, "Hi! Do you have any rye bread left today?"),
            Line(_IN, 5, "I could be there in ten minutes 🙂"),
        ],
    ),
)
