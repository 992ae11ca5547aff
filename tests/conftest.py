from __future__ import annotations

import os

from hypothesis import settings

from tests.servers import missing

settings.register_profile("swarm", deadline=None, derandomize=True)
settings.load_profile("swarm")


def pytest_report_header() -> list[str]:
    """Say at once, and loudly, what will not be tested on this machine."""
    found = "fails" if os.environ.get("CI") else "is skipped"
    return [f"MISSING SERVER {name}: {why}; what needs it {found}" for name, why in missing().items()]
