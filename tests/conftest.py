"""Every test runs on the NumPy backend and on every instruction set this CPU has."""

import os

import pytest

from fastadam import _backend

STRICT = "FASTADAM_TEST_STRICT"  # set where nothing may be skipped, such as in CI


@pytest.fixture(params=_backend.available, autouse=True)
def backend(request):
    with _backend.using(request.param):
        yield request.param


def pytest_report_header():
    compiled = _backend.describe()["instruction_sets"]
    lacking = [name for name, has in compiled.items() if not has]
    return [
        f"fastadam backends: {', '.join(_backend.available)}",
        f"compiled but not on this CPU, so not tested: {', '.join(lacking) or 'none'}",
    ]


def pytest_runtest_logreport(report):
    if report.skipped and os.environ.get(STRICT):
        report.outcome = "failed"
        report.longrepr = f"skipped, and {STRICT} is set: {report.longrepr}"
