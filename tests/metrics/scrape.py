"""Reading what a scrape answers."""

from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, frozenset[tuple[str, str]]]


def series(text: str) -> dict[Series, float]:
    """The number of each series, by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def number(text: str, name: str, **labels: str) -> float:
    """The sum of the series with this name and these labels, among others."""
    wanted = labels.items()
    return sum(value for (own, given), value in series(text).items() if own == name and wanted <= given)
