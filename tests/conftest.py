"""Tests run on the NumPy backend and on the instruction sets that this CPU has."""

import os

import pytest

from fastadam import _backend

STRICT = "FASTADAM_TEST_STRICT"  # set where nothing may be skipped, such as in CI

#: Run only where it is named, for the packages that it needs are large.
collect_ignore = ["test_torch_wrappers.py"]


def pytest_configure():
    missing = _backend.describe()["extension_missing"]
    if missing and os.environ.get("FASTADAM_BACKEND") != "numpy":
        raise pytest.UsageError(
            f"the tests are meant for fastadam's C kernels, but {missing}. With "
            "FASTADAM_BACKEND=numpy they test the NumPy implementation."
        )


#: Files that try what Python does around a step, which is the same for all instruction sets: the
#: best one and NumPy are enough. All others run on each.
OF_PYTHON = {
    *("checkpoint", "compressed_state", "docs", "errors", "files", "free_threading", "groups"),
    *("guests", "interrupts", "main", "memory", "migration", "mpi", "params", "recipes"),
    *("schedules", "scipy", "sklearn", "torch", "torch_compressed", "torch_engines"),
    *("torch_foreign", "torch_newer_members", "torch_optim", "training"),
}


def pytest_generate_tests(metafunc):
    chosen = any("backend" in mark.args for mark in metafunc.definition.iter_markers("parametrize"))
    own = any(hasattr(where, "backend") for where in (metafunc.module, metafunc.cls))
    if chosen or own:
        return
    names = _backend.available
    if metafunc.definition.path.stem.removeprefix("test_") in OF_PYTHON:
        names = [name for name in names if name in (names[0], "numpy")]
    metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture(autouse=True)
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
