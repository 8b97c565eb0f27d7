# SPDX-License-Identifier: MIT
"""The order of a whole check: two suites run beside all that takes no times, and what does has this host to itself."""
import pytest

BESIDE = ("test_suite_sanitized", "test_suite_in_the_lab")
ALONE = "timing"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """With one of them among the chosen: they come after the rest, and after them what compares times."""
    if any(item.name in BESIDE for item in items):
        items.sort(key=lambda item: 1 if item.name in BESIDE else 2 if item.get_closest_marker(ALONE) else 0)
