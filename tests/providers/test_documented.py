"""Every setting of every vendor is written down where a reader looks for it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import app.providers.registry  # noqa: F401 - it imports every vendor
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.toolbox.models import HttpVendorSettings, VendorSettings

ROOT = Path(__file__).parent.parent.parent


def vendors(base: type[VendorSettings] = VendorSettings) -> Iterator[type[VendorSettings]]:
    for each in base.__subclasses__():
        if each not in {HttpVendorSettings, SimulatorSettings}:  # the simulator has a page of its own
            yield each
        yield from vendors(each)


def variables(settings: type[VendorSettings]) -> list[str]:
    return [f"{settings.model_config['env_prefix']}{name}".upper() for name in settings.model_fields]


@pytest.mark.parametrize("settings", list(vendors()), ids=lambda settings: settings.__name__)
def test_every_setting_of_a_vendor_stands_in_the_example_and_in_the_documentation(
    settings: type[VendorSettings],
) -> None:
    example = set(re.findall(r"^# ([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    documented = set(re.findall(r"`([A-Z0-9_]+)`", (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")))
    assert set(variables(settings)) - example == set()
    assert set(variables(settings)) - documented == set()
