"""Every test runs on the NumPy backend and on every instruction set this CPU has."""

import os

import pytest

from fastadam import _backend

STRICT = "FASTADAM_TEST_STRICT"  # set where nothing may be skipped, such as in CI


def pytest_configure():
    missing = _backend.describe()["extension_missing"]
    if missing and os.environ.get("FASTADAM_BACKEND") != "numpy":
        raise pytest.UsageError(
            f"the tests are meant for fastadam's C kernels, but {missing}. With "
            "FASTADAM_BACKEND=numpy they test the NumPy implementation."
        )


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


def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get(STRICT) and reporter.stats.get("skipped"):
        reporter.write_line(f"something was skipped, and {STRICT} is set")
        session.exitstatus = 1
