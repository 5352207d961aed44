"""The backend that was chosen, the environment variables, the import."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastadam
from fastadam import _backend, _hyper
from fastadam._rules import RULES

#: For processes that shall not warn of a missing extension.
QUIET = {} if _backend.native() else {"FASTADAM_BACKEND": "numpy"}


def run(code, **env):
    """Run code in a process of its own; -P keeps it from importing the checkout's folder."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FASTADAM_")}
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env={**clean, **env}, capture_output=True, text=True,
    )  # fmt: skip


def test_the_compiled_backend_is_loaded():
    """It must be, unless its absence is what is tested."""
    if os.environ.get("FASTADAM_BACKEND") == "numpy":
        assert fastadam.show_config(mode="dicts")["backend"] == "numpy"
        return
    assert _backend.available[:-1], f"no extension: {_backend.describe()['extension_missing']}"
    code = "import fastadam; print(fastadam.show_config(mode='dicts')['backend'])"
    assert run(code).stdout == "c\n"


def test_the_fixture_selects(backend):
    config = fastadam.show_config(mode="dicts")
    if backend == "numpy":
        assert config["backend"] == "numpy"
        assert config["instruction_set"] is None
    else:
        assert config["backend"] == "c"
        assert config["instruction_set"] == backend
        assert config["instruction_sets"][backend]


def test_selecting_what_is_not_there():
    if _backend.native():
        with pytest.raises(ValueError, match="do not have mmx"):
            _backend.select("mmx")


def test_show_config_prints(capsys):
    assert fastadam.show_config() is None
    assert f"version: {fastadam.__version__}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'stdout' or 'dicts'"):
        fastadam.show_config(mode="json")


CHOSEN = """
import fastadam
config = fastadam.show_config(mode="dicts")
print(config["backend"], config["instruction_set"])
"""


def test_environment_variables():
    sets = _backend.available[:-1]
    assert run(CHOSEN, FASTADAM_BACKEND="numpy").stdout == "numpy None\n"
    for name in sets:
        assert run(CHOSEN, FASTADAM_ISA=name).stdout == f"c {name}\n"
    if sets:
        assert run(CHOSEN).stdout == f"c {sets[0]}\n"
        assert run(CHOSEN, FASTADAM_BACKEND="c").stdout == f"c {sets[0]}\n"
    unknown = run(CHOSEN, FASTADAM_ISA="mmx")
    assert unknown.returncode == 1
    found = f"not available; this CPU and build have {', '.join(sets)}"
    refused = f"FASTADAM_ISA=mmx: {found if sets else 'fastadam has no C kernels: there is no'}"
    assert refused in unknown.stderr
    lacking = [name for name, has in _backend.describe()["instruction_sets"].items() if not has]
    for name in lacking:
        assert f"FASTADAM_ISA={name}: not available" in run(CHOSEN, FASTADAM_ISA=name).stderr
    both = run(CHOSEN, FASTADAM_BACKEND="numpy", FASTADAM_ISA="mmx")
    assert refused in both.stderr
    assert "FASTADAM_BACKEND=fortran: expected c or numpy" in (
        run(CHOSEN, FASTADAM_BACKEND="fortran").stderr
    )


HIDDEN = """
import sys
sys.modules["fastadam._native"] = None
"""


def test_without_the_extension():
    refused = run(HIDDEN + CHOSEN)  # warnings are errors there
    assert "RuntimeWarning: fastadam runs on NumPy, which is slower" in refused.stderr
    assert run(HIDDEN + CHOSEN, FASTADAM_BACKEND="numpy").stdout == "numpy None\n"
    forced = run(HIDDEN + CHOSEN, FASTADAM_BACKEND="c")
    assert forced.returncode == 1
    assert "FASTADAM_BACKEND=c: fastadam cannot use its C kernels" in forced.stderr
    assert "fastadam has no C kernels" in run(HIDDEN + CHOSEN, FASTADAM_ISA="avx2").stderr


def test_import_is_light():
    code = """
import sys, numpy
before = set(sys.modules)
import fastadam
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
known = {*sys.stdlib_module_names, "fastadam", "numpy", "cython_runtime"}
print(sorted(name for name in loaded - known if not name.startswith("_cython_")))
"""
    result = run(code, **QUIET)
    assert result.stdout == "[]\n", result.stderr
    assert result.stderr == ""


def test_import_loads_nothing_of_the_command_line():
    code = "import sys, fastadam; print(*(m for m in sys.modules if m.startswith('fastadam.')))"
    loaded = set(run(code, **QUIET).stdout.split())
    assert "fastadam._config" in loaded
    assert not loaded & {
        f"fastadam.{name}" for name in ("_report", "_machine", "_output", "_bench")
    }


def test_import_loads_no_adapter():
    """Nor what is compiled for one."""
    code = "import sys, fastadam; print([m for m in sys.modules if m.startswith('fastadam.torch')])"
    assert run(code, **QUIET).stdout == "[]\n"
    if _backend.native():
        assert not hasattr(_backend.native(), "Tensors")


def test_import_leaves_subnormals_alone():
    """An extension linked with -ffast-math would make the whole process flush them to zero."""
    code = "import fastadam, numpy; print(numpy.float64(5e-324) * 1.0 + float('5e-324'))"
    assert run(code, **QUIET).stdout == "1e-323\n"


def test_both_backends_list_the_same_rules(backend):
    if backend != "numpy":
        assert _backend.native().rules() == [rule.name for rule in RULES]
        assert {*_backend.native().HYPERS} == {*_hyper.ABSENT}


class TestTheSourceFolder:
    """Python started there imports the package that lies beside csrc/, compiled or not."""

    @pytest.fixture
    def backend(self):
        """Each test starts a Python of its own: once is enough."""

    @pytest.fixture
    def source(self, tmp_path):
        """A source folder whose package is not built."""
        shutil.copytree(
            Path(fastadam.__file__).parent,
            tmp_path / "fastadam",
            ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", _backend.NOT_BUILT),
        )
        (tmp_path / "csrc").mkdir()
        (tmp_path / "setup.py").touch()
        return tmp_path

    @staticmethod
    def python(source, *arguments, **env):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FASTADAM_", "PYTHON"))}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=source, env={**clean, **env}, capture_output=True, text=True,
        )  # fmt: skip

    @pytest.mark.parametrize(
        "line", ["import fastadam", "from fastadam import Adam", "import fastadam.schedules"]
    )
    def test_an_import_warns_once_and_names_the_line(self, source, line):
        script = source / "train.py"
        script.write_text(f"import numpy\n{line}\nimport fastadam.family\n{CHOSEN}")
        result = self.python(source, str(script))
        assert result.stdout == "numpy None\n"
        first, quoted, *more = result.stderr.splitlines()
        assert first.startswith(f"{script}:2: RuntimeWarning: fastadam runs on NumPy")
        assert f"loaded from its source folder, {source}, where" in first
        assert "start it with -P" in first
        assert "`pip install .`" in first
        assert "`pip install -e .`" in first
        assert quoted.strip() == line
        assert more == []

    def said(self, source, **env):
        result = self.python(source, "-W", "error", "-c", CHOSEN, **env)
        return result.stdout + result.stderr

    def test_nothing_is_said_where_nothing_is_amiss(self, source):
        assert "RuntimeWarning" in self.said(source)
        assert self.said(source, FASTADAM_BACKEND="numpy") == "numpy None\n"
        if _backend.available[:-1]:
            native = Path(sys.modules["fastadam._native"].__file__)
            shutil.copy(native, source / "fastadam")
            bundled = native.parent.with_name("fastadam.libs")
            if bundled.exists():  # an installed wheel's, which the extension finds beside it
                shutil.copytree(bundled, source / bundled.name)
            assert self.said(source) == f"c {_backend.available[0]}\n"

    def test_an_installed_package_says_why_it_was_not_built(self, source):
        (source / "setup.py").unlink()
        assert f"no compiled extension in {source / 'fastadam'}. Install a wheel" in self.said(
            source
        )
        (source / "fastadam" / _backend.NOT_BUILT).write_text("command 'gcc' failed")
        assert "could not be built: command 'gcc' failed. Install a wheel" in self.said(source)

    def test_the_tests_refuse_to_run_without_the_kernels(self, source):
        tests = source / "tests"
        tests.mkdir()
        shutil.copy(Path(__file__).with_name("conftest.py"), tests)
        (tests / "test_none.py").write_text("def test_none():\n    pass\n")
        (source / "pytest.ini").write_text("[pytest]\n")  # no settings from a folder around it
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
        refused = self.python(source, *command)
        assert refused.returncode == pytest.ExitCode.USAGE_ERROR
        assert "meant for fastadam's C kernels, but it was loaded from its source" in refused.stderr
        assert self.python(source, *command, FASTADAM_BACKEND="numpy").returncode == 0

    def test_the_errors_are_true_there(self, source):
        for env in ({"FASTADAM_BACKEND": "c"}, {"FASTADAM_ISA": "avx2"}):
            result = self.python(source, "-c", CHOSEN, **env)
            assert result.returncode == 1
            assert f"loaded from its source folder, {source}, where" in result.stderr
            assert "RuntimeWarning" not in result.stderr

    def test_the_command_line_says_it(self, source):
        listing = self.python(source, "-W", "ignore", "-m", "fastadam")
        assert (listing.returncode, listing.stderr) == (0, "")
        said = " ".join(listing.stdout.split())
        assert "backend: numpy, because it was loaded from its source folder" in said
        required = self.python(source, "-W", "ignore", "-m", "fastadam", "--require-compiled")
        assert required.returncode == 1
        assert required.stdout == listing.stdout
        described = self.python(source, "-W", "ignore", "-m", "fastadam", "--json")
        assert "its source folder" in json.loads(described.stdout)["extension_missing"]
