# SPDX-License-Identifier: MIT
"""The order of a whole check: the lab runs beside all that takes no times, and what does has this host to itself."""
import pytest

LAB = "test_suite_in_the_lab"
ALONE = ("timing", "long")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """With the lab among the chosen: it comes after the rest, and after it what compares times or is long."""
    if any(item.name == LAB for item in items):
        items.sort(key=lambda item: 1 if item.name == LAB else 2 if any(map(item.get_closest_marker, ALONE)) else 0)
