"""`python -m fastadam`: its options, alone and together; the benchmark on small work."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastadam
from fastadam import _backend, _machine, _output, _report, _threads, family
from fastadam.__main__ import main
from fastadam._bench import cli, rivals
from fastadam._bench.timing import measure

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "command-line.md"


def run(*arguments, before="", stdout=subprocess.PIPE, **env):
    """The command in a process of its own, after some code, which -P keeps from this folder."""
    clean = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    code = f"import sys\n{before}\nimport runpy\nrunpy.run_module('fastadam', None, '__main__')"
    return subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code, *arguments],
        env={**clean, **env}, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300,
    )  # fmt: skip


VARIABLES = {
    *("FASTADAM_BACKEND", "FASTADAM_ISA", "FASTADAM_NUM_THREADS", "OMP_NUM_THREADS"),
    *("PYTHONUNBUFFERED", "PYTHONIOENCODING"),
}
#: Puts small work, and no other library than NumPy, into the benchmark.
SMALL = """
class Hidden:
    @staticmethod
    def find_spec(name, *_):
        if name in ("torch", "numba", "sklearn", "thinc"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden)
from fastadam._bench import cli
cli.WORK = (cli.Work(1, 10), cli.Work(2, 100))
"""
#: For tests that start a Python of their own.
once = pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)
needs_kernels = pytest.mark.skipif(not _backend.available[:-1], reason="there are none")
needs_threads = pytest.mark.skipif(
    _backend.describe()["threading"] == "none", reason="it has one thread"
)


@pytest.fixture(autouse=True)
def work(monkeypatch):
    """Small arrays and rivals that need nothing, one of which is never installed."""

    def absent(params, grads):
        raise ImportError("No module named 'absent'")

    monkeypatch.setattr(cli, "measure", partial(measure, seconds=0.0))
    monkeypatch.setattr(cli, "WORK", (cli.Work(1, 10), cli.Work(2, 100)))
    monkeypatch.setattr(cli, "SHOWN", ("textbook NumPy", "absent"))
    monkeypatch.setitem(rivals.RIVALS, "absent", absent)


@pytest.fixture(autouse=True)
def threads(backend):
    """How many there are, and are again after the test."""
    torch = sys.modules.get("torch")
    before, torch_before = fastadam.get_num_threads(), torch and torch.get_num_threads()
    yield before
    fastadam.set_num_threads(before)
    if torch:
        torch.set_num_threads(torch_before)


@pytest.fixture
def unmeasured(monkeypatch):
    """What is told before measuring must not need it."""
    monkeypatch.setattr(cli, "measure", lambda *args, **kwargs: pytest.fail("measured"))


def refused(capsys, *arguments):
    """The message with which arguments are refused."""
    with pytest.raises(SystemExit, match="2"):
        main(list(arguments))
    return capsys.readouterr().err.splitlines()[-1].removeprefix("python -m fastadam ")


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"fastadam {fastadam.__version__}\n"


@pytest.mark.parametrize("variable", ["BACKEND", "ISA", "NUM_THREADS"])
@pytest.mark.parametrize("command", [[], ["bench"]])
def test_a_bad_variable_is_said_in_one_line(variable, command):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FASTADAM_")}
    result = subprocess.run(
        [sys.executable, "-P", "-m", "fastadam", *command],
        env={**clean, f"FASTADAM_{variable}": "bad"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert f"FASTADAM_{variable}=bad: " in line


def test_what_is_installed(backend, capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"fastadam {fastadam.__version__}"
    assert f"  Python:          {sys.version.split()[0]}" in lines
    assert f"  NumPy:           {np.__version__}" in lines
    assert max(map(len, lines)) < 100 + len(str(ROOT))
    assert main(["--json", "--require-compiled"]) == int(backend == "numpy")
    found = json.loads(capsys.readouterr().out)
    config = fastadam.show_config(mode="dicts")
    assert dict(list(found.items())[: len(config)]) == config


@once
def test_what_is_copied_stays_in_one_line():
    report = _report.report()
    path = f"/Users/me/{'a long name ' * 12}end"
    command = f"`pip install {'a b ' * 8}end`"
    report |= {"location": path, "backend_reason": f"{'words ' * 10}{command}{' words' * 30}"}
    report["extension_missing"] = None  # which may name a long path of this machine
    text = _report.as_text(report)
    assert f"  installed in:    {path}\n" in text
    assert command in text
    assert all(len(line) < 100 for line in text.splitlines() if path not in line)


def documented(keys_before):
    """{key: types} of the table of docs/command-line.md that begins with such a key."""
    tables = GUIDE.read_text().split("| key | type | what it is |\n|---|---|---|\n")[1:]
    (table,) = (table for table in tables if table.startswith(f"| `{keys_before}` |"))
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", table.partition("\n\n")[0], re.M)
    return {key: tuple(TYPES[name] for name in names.split(" or ")) for key, names in rows}


TYPES = {"string": str, "integer": int, "object": dict, "array": list, "null": type(None)}
CPU = {"name": str, "logical": int | None, "physical": int | None, "usable": int | None}
PACKAGE = {"version": str | None, "used_for": str, "install": str}


def fits(found, schema):
    return list(found) == list(schema) and all(
        isinstance(found[key], types) for key, types in schema.items()
    )


def test_the_json_is_as_documented(backend, capsys):
    assert main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert fits(found, documented("version"))
    assert fits(found["cpu"], CPU)
    assert found["packages"]
    assert all(fits(package, PACKAGE) for package in found["packages"].values())
    assert all(type(has) is bool for has in found["instruction_sets"].values())
    assert main(["bench", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert fits(report, documented("config"))
    assert all(list(r) == ["arrays", "elements", "seconds"] for r in report["results"])


def helped(capsys, *command):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    return capsys.readouterr().out


def test_help_and_the_guide_have_every_option(capsys):
    of_main, of_bench = helped(capsys), helped(capsys, "bench")
    for text in (of_main, of_bench):
        assert max(map(len, text.splitlines())) < 100
        assert "exit status: 0; 1 with --require-compiled" in text
    for variable in ("BACKEND", "ISA", "NUM_THREADS"):
        assert f"  FASTADAM_{variable} " in of_main
    assert "bench --help" in of_main
    guide = GUIDE.read_text()
    options = set(re.findall(r"^  (?:-h, )?(--[\w-]+)", of_main + of_bench, re.M))
    assert options >= {"--json", "--plot", "--help", "--version", "--threads"}
    for option in options:
        assert f"| `{option}" in guide


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jsno"], "error: unknown: --jsno; did you mean --json?"),
        (["-x"], "error: unknown: -x; --help lists what there is"),
        (["benhc"], "invalid choice: 'benhc' (choose from"),
        (["bench", "--treads=2"], "bench: error: unknown: --treads=2; did you mean --threads?"),
        (["bench", "--treads", "2"], "bench: error: unknown: --treads 2; did you mean --threads?"),
        (["bench", "now"], "bench: error: unknown: now; --help lists what there is"),
    ],
)
def test_unknown_arguments(arguments, message, unmeasured, capsys):
    assert message in refused(capsys, *arguments)


class TestReasons:
    """What was set decides; each in a Python of its own, where it is set from the beginning."""

    pytestmark = once

    @staticmethod
    def told(before="", **env):
        """The facts, and the text with any white space as one space."""
        facts, text = (run(*option, before=before, **env) for option in (["--json"], []))
        assert (facts.returncode, facts.stderr) == (text.returncode, text.stderr) == (0, "")
        return json.loads(facts.stdout), " ".join(text.stdout.split())

    def test_numpy_where_it_was_asked_for(self):
        facts, text = self.told(FASTADAM_BACKEND="numpy")
        assert facts["backend_reason"] == "FASTADAM_BACKEND=numpy is set"
        assert facts["instruction_set_reason"] is None
        assert facts["openmp_runtime"] is None
        assert "backend: numpy, because FASTADAM_BACKEND=numpy is set" in text
        assert "threads: 1, because the NumPy backend has no more" in text
        assert "instruction set:" not in text
        assert ("this CPU has:" in text) == bool(_backend.available[:-1])

    HIDDEN = "sys.modules['fastadam._native'] = None"

    def test_numpy_where_the_extension_cannot_be_imported(self):
        facts, text = self.told(self.HIDDEN)
        assert facts["backend"] == "numpy"
        assert facts["backend_reason"] == facts["extension_missing"]
        assert f"backend: numpy, because {' '.join(facts['extension_missing'].split())}" in text
        if _backend.available[:-1]:
            assert "cannot be loaded (import of fastadam._native halted" in text
        for absent in ("instruction set:", "this CPU has:", "OpenMP", "built with:", "extension:"):
            assert absent not in text

    def test_numpy_for_both_reasons(self):
        facts, text = self.told(self.HIDDEN, FASTADAM_BACKEND="numpy")
        assert facts["backend_reason"] == "FASTADAM_BACKEND=numpy is set"
        assert "because FASTADAM_BACKEND=numpy is set extension: missing: " in text

    def test_a_backend_that_is_required_and_missing(self):
        result = run(before=self.HIDDEN, FASTADAM_BACKEND="c")
        assert (result.returncode, result.stdout) == (1, "")
        assert "FASTADAM_BACKEND=c: fastadam cannot use its C kernels" in result.stderr

    @needs_kernels
    def test_kernels(self):
        best, *_ = _backend.available
        _, text = self.told()
        assert "backend: c, because the compiled extension was loaded " in text
        assert f"set: {best}, because it is the fastest one on this CPU" in text
        sets = _backend.describe()["instruction_sets"]
        has = ", ".join(name for name, has in sets.items() if has)
        lacks = ", ".join(name for name, has in sets.items() if not has) or "none"
        assert f"this CPU has: {has} and lacks: {lacks} threads: " in text
        last = _backend.available[-2]
        _, text = self.told(FASTADAM_BACKEND="c", FASTADAM_ISA=last)
        assert "extension was loaded, as FASTADAM_BACKEND=c requires " in text
        assert f"instruction set: {last}, because FASTADAM_ISA={last} is set" in text

    @needs_threads
    @pytest.mark.parametrize(
        ("variables", "why"),
        [
            ({"FASTADAM_NUM_THREADS": "3"}, "3, because FASTADAM_NUM_THREADS=3 is set"),
            ({"OMP_NUM_THREADS": "3"}, "3, because OMP_NUM_THREADS=3 is set"),
            ({"OMP_NUM_THREADS": "3,2"}, "3, because OMP_NUM_THREADS=3,2 is set"),
            (
                {"OMP_NUM_THREADS": "2", "FASTADAM_NUM_THREADS": "3"},
                "3, because FASTADAM_NUM_THREADS=3 is set",
            ),
        ],
    )
    def test_threads_by_a_variable(self, variables, why):
        facts, text = self.told(**variables)
        assert f"threads: {why}" in text
        assert facts["threads"] == 3

    @needs_threads
    def test_threads_by_a_call(self):
        _, text = self.told("import fastadam\nfastadam.set_num_threads(5)")
        assert "threads: 5, because set_num_threads(5) was called" in text

    @needs_threads
    def test_threads_by_a_quota(self):
        quota = (
            "import fastadam\nfrom fastadam import _threads\nfastadam.set_num_threads(9)\n"
            "_threads.cpu_quota = lambda: 1.5\n_threads._begin()"
        )
        _, text = self.told(quota)
        assert "threads: 1, because the process's control group has the time of 1.5 CPUs" in text

    @needs_threads
    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no such call")
    def test_threads_by_affinity(self):
        one = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
        facts, text = self.told(one)
        logical = facts["cpu"]["logical"]
        assert facts["cpu"]["usable"] == 1
        part = f", 1 of {logical}" if logical > 1 else ""
        why = f"there is one for each CPU that this process may run on{part} OpenMP runtime:"
        assert f"threads: 1, because {why}" in text

    @needs_threads
    def test_threads_by_openmp(self, monkeypatch):
        monkeypatch.setattr(_threads, "asked_by", None)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(_machine, "usable_cpus", lambda: 10_000)
        assert _report.report()["threads_reason"] == "the OpenMP runtime chose so"

    def test_threads_of_a_build_without_openmp(self, monkeypatch):
        config = {**fastadam.show_config(mode="dicts"), "backend": "c", "threading": "none"}
        monkeypatch.setattr(_report, "show_config", lambda mode: config)
        report = _report.report()
        assert report["threads_reason"] == "it was built without OpenMP"
        assert "OpenMP runtime" not in _report.as_text(report)


@once
@needs_threads
@pytest.mark.skipif(sys.platform == "win32", reason="it cannot be asked there")
def test_the_openmp_runtime_is_a_library():
    native = _backend.native().__file__
    path = Path(_machine.shared_library(native, "omp_get_max_threads"))
    assert path.is_file()
    assert "omp" in path.name
    assert _machine.shared_library(native, "no_such_function") is None
    assert _machine.shared_library("/no/such/library", "main") is None


class TestPackages:
    pytestmark = once

    def test_none_is_imported(self):
        modules = {"mpi4py", "sklearn", *_report.PACKAGES}
        code = (
            "import atexit\natexit.register(lambda: print(*(name for name in sys.modules "
            f"if name in {modules}), file=sys.stderr))"
        )
        result = run("--json", before=code)
        assert (result.returncode, result.stderr) == (0, "\n")

    def test_those_that_are_there(self, monkeypatch, capsys):
        monkeypatch.setattr(metadata, "version", lambda name: f"1.2+{name}")
        monkeypatch.setattr(_machine, "mpi_library", lambda: "/opt/my mpi/libmpi.so")
        main([])
        out = capsys.readouterr().out
        assert "\n  torch:           1.2+torch (fastadam.torch)\n" in out
        assert "\n  MPI library:     /opt/my mpi/libmpi.so\n" in out
        assert "pip install" not in out
        monkeypatch.setattr(_machine, "mpi_library", lambda: None)
        main([])
        assert "  MPI library:     none found: pip install mpich\n" in capsys.readouterr().out

    def test_those_that_are_missing(self, monkeypatch, capsys):
        def version(name):
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(_machine, "mpi_library", lambda: pytest.fail("nobody needs one"))
        main([])
        out = capsys.readouterr().out
        for name in _report.PACKAGES:
            line = rf"^  {name}: +not installed \(.+\): pip install {name}$"
            assert re.search(line, out, re.M), name
        assert "MPI library" not in out

    def test_every_extra_for_users_is_named(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        for extra in ("torch", "sklearn", "scipy", "safetensors", "mpi"):
            names = {re.match(r"[\w-]+", needed)[0] for needed in extras[extra]}
            assert names <= _report.PACKAGES.keys()


class TestTheMachine:
    """Of fake folders and commands, as other systems have them."""

    pytestmark = once

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            (
                "processor\t: 0\nmodel name\t: A CPU  @ 2 GHz \n\nmodel name\t: B\n",
                "A CPU  @ 2 GHz",
            ),
            ("processor\t: 0\nCPU implementer\t: 0x41\n", None),
            ("", None),
        ],
    )
    def test_a_name_from_linux(self, text, name, tmp_path):
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(text)
        assert _machine._linux_name(tmp_path) == name

    def test_cores_from_linux(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_machine.platform, "system", lambda: "Linux")
        assert _machine.physical_cores(tmp_path) is None
        for cpu, siblings in enumerate(["0,2\n", "1,3\n", "0,2\n", "1,3\n"]):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(siblings)
        (tmp_path / "sys/devices/system/cpu/cpufreq").mkdir()
        assert _machine.physical_cores(tmp_path) == 2

    @pytest.mark.parametrize(("said", "cores"), [("8\n", 8), ("", None)])
    def test_macos(self, said, cores, monkeypatch):
        def sysctl(command, **_):
            return SimpleNamespace(stdout=said if command[-1] == "hw.physicalcpu" else "Apple M1\n")

        monkeypatch.setattr(_machine.platform, "system", lambda: "Darwin")
        monkeypatch.setattr(_machine.subprocess, "run", sysctl)
        assert _machine.cpu_name() == "Apple M1"
        assert _machine.physical_cores(Path("/nowhere")) == cores

    def test_windows(self, monkeypatch, tmp_path):
        class Key(SimpleNamespace):
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

        keys = {
            r"HARDWARE\DESCRIPTION\System\CentralProcessor\0": {"ProcessorNameString": " A CPU "}
        }
        winreg = SimpleNamespace(
            HKEY_LOCAL_MACHINE="machine",
            OpenKey=lambda root, path: Key(values=keys[path]),
            QueryValueEx=lambda key, name: (key.values[name], 1),
        )
        monkeypatch.setattr(_machine.platform, "system", lambda: "Windows")
        monkeypatch.setitem(sys.modules, "winreg", winreg)
        assert _machine.cpu_name() == "A CPU"
        assert _machine.physical_cores(tmp_path) is None

    def test_elsewhere(self, monkeypatch):
        monkeypatch.setattr(_machine.platform, "system", lambda: "Plan 9")
        monkeypatch.setattr(_machine.platform, "processor", lambda: "")
        monkeypatch.setattr(_machine.platform, "machine", lambda: "mips")
        assert _machine.cpu_name() == "mips"
        monkeypatch.setattr(_machine.platform, "machine", lambda: "")
        monkeypatch.setattr(_machine, "physical_cores", lambda: None)
        monkeypatch.setattr(_machine.os, "cpu_count", lambda: None)
        text = _report.as_text(_report.report())
        assert "\n  CPU:             unknown\n" in text
        assert "\n  cores:           unknown physical, unknown logical\n" in text

    def test_what_cannot_be_read(self, monkeypatch):
        def fails(*_, **__):
            raise PermissionError

        monkeypatch.setattr(_machine.platform, "system", lambda: "Darwin")
        monkeypatch.setattr(_machine.platform, "processor", lambda: "arm")
        monkeypatch.setattr(_machine.subprocess, "run", fails)
        assert _machine.cpu_name() == "arm"
        assert _machine.physical_cores(Path("/nowhere")) is None

    @pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no such call")
    def test_usable_cpus(self, monkeypatch):
        assert _machine.usable_cpus() == len(os.sched_getaffinity(0))
        monkeypatch.delattr(os, "sched_getaffinity")
        assert _machine.usable_cpus() == os.cpu_count()


class TestMPILibrary:
    pytestmark = once

    @pytest.fixture(autouse=True)
    def nowhere(self, monkeypatch, tmp_path):
        """Looking finds none: the folders are empty, and so is the system."""
        for name in ("MPI4PY_LIBMPI", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
        monkeypatch.setattr(sys, "base_exec_prefix", str(tmp_path))
        monkeypatch.setattr(_machine.site, "getuserbase", lambda: str(tmp_path))
        monkeypatch.setattr(_machine, "find_library", lambda name: None)
        monkeypatch.chdir(tmp_path)

    @staticmethod
    def make_library(folder):
        """A file of no content: to load it would be an error."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "libmpi.so.40").touch()
        return str(folder / "libmpi.so.40")

    def test_none(self, tmp_path):
        self.make_library(tmp_path)  # the current folder is none of the places
        if not any(Path(place).exists() for place in ("/opt/homebrew/lib", "/opt/local/lib")):
            assert _machine.mpi_library() is None

    def test_in_the_environment_of_python(self, tmp_path):
        path = self.make_library(tmp_path / "lib")
        assert _machine.mpi_library() == path

    def test_where_a_variable_says(self, tmp_path, monkeypatch):
        self.make_library(tmp_path / "lib")
        path = self.make_library(tmp_path / "module/lib")
        places = [str(tmp_path / "gone"), str(tmp_path / "module/lib")]
        monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(places))
        assert _machine.mpi_library() == path
        own = self.make_library(tmp_path / "own")
        monkeypatch.setenv("MPI4PY_LIBMPI", own)
        assert _machine.mpi_library() == own

    def test_in_the_system(self, monkeypatch):
        monkeypatch.setattr(_machine, "find_library", {"mpi": "libmpi.so.40"}.get)
        assert _machine.mpi_library() == "libmpi.so.40"


class TestAReaderThatGoes:
    """As `head` does after its first line."""

    pytestmark = once

    @staticmethod
    def read_by_nobody(*arguments, before="", **env):
        """The status and what is on stderr where stdout is a pipe that is closed already."""
        reader, writer = os.pipe()
        os.close(reader)
        try:
            result = run(*arguments, before=before, stdout=writer, FASTADAM_BACKEND="numpy", **env)
        finally:
            os.close(writer)
        return result.returncode, result.stderr

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("arguments", [[], ["--json"], ["--help"], ["--version"]])
    def test_nothing_is_said_of_it(self, arguments, unbuffered):
        assert self.read_by_nobody(*arguments, PYTHONUNBUFFERED=unbuffered) == (0, "")

    def test_the_verdict_stays(self):
        assert self.read_by_nobody("--require-compiled") == (1, "")

    def test_nor_of_a_benchmark(self):
        status, err = self.read_by_nobody("bench", before=SMALL)
        assert status == 0
        assert [line.partition(":")[0] for line in err.splitlines()] == [
            "measuring 1 of 2", "measuring 2 of 2"
        ]  # fmt: skip

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no such device")
    def test_a_full_disk_is_an_error(self, monkeypatch):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            with pytest.raises(OSError, match="No space left"):
                _output.say("text")
            monkeypatch.undo()
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # for what is left to flush


def test_letters_that_the_output_lacks(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", newline="\n"))
    _output.say("/home/ren\xe9")
    assert raw.getvalue() == rb"/home/ren\xe9" + b"\n"


def test_notes_without_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    _output.note("text")
    assert capsys.readouterr().out == ""


def test_bench_prints_a_table(backend, capsys):
    assert main(["bench", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    head, names, first, second, *words = out.splitlines()
    assert ", 1 thread; " in head
    assert "; float32; microseconds per step" in head
    streams = [] if backend == "numpy" else ["streams only"]
    assert re.split(r"  +", names.strip()) == [
        "arrays x elements", "fastadam", *streams, "textbook NumPy"
    ]  # fmt: skip
    figures = r"( +[\d,.]+)" * (2 + len(streams))
    assert re.fullmatch(" +1 x 10" + figures, first)
    assert re.fullmatch(" +2 x 100" + figures, second)
    assert ("streams only: " in out) == bool(streams)
    assert words[-1] == "not measured: absent (No module named 'absent')"


@pytest.mark.parametrize("arguments", [("--json", "bench"), ("bench", "--json")])
def test_bench_prints_json_wherever_the_option_stands(arguments, backend, capsys, threads):
    assert main([*arguments, "--dtype", "float64"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dtype"] == "float64"
    assert report["config"] == fastadam.show_config(mode="dicts")
    assert report["config"]["threads"] == threads
    assert report["missing"] == {"absent": "No module named 'absent'"}
    assert [(r["arrays"], r["elements"]) for r in report["results"]] == [(1, 10), (2, 100)]
    for result in report["results"]:
        assert result["seconds"].keys() >= {"fastadam", "textbook NumPy"}
        assert all(0 < seconds < 1 for seconds in result["seconds"].values())


@pytest.mark.parametrize(
    "arguments", [("--require-compiled", "bench"), ("bench", "--require-compiled")]
)
def test_bench_requires_the_extension(arguments, backend, capsys):
    status = main(list(arguments))
    out, err = capsys.readouterr()
    if backend == "numpy":
        assert (status, out) == (1, "")
        assert "nothing was measured: NumPy stands in for the compiled extension, because " in err
    else:
        assert status == 0
        assert "textbook NumPy" in out


def test_bench_refuses_before_it_measures(unmeasured, capsys):
    assert refused(capsys, "bench", "--threads", "0") == (
        "bench: error: the number of threads must be at least 1, found 0"
    )
    assert "choose from" in refused(capsys, "bench", "--dtype", "float16")


def test_bench_gives_every_library_as_many_threads(monkeypatch):
    given, set_threads = [], rivals.set_threads
    monkeypatch.setattr(rivals, "set_threads", given.append)
    main(["bench", "--threads", "1"])
    assert given == [1, 1]
    numba = SimpleNamespace(
        set_num_threads=given.append, config=SimpleNamespace(NUMBA_NUM_THREADS=2)
    )
    torch = SimpleNamespace(set_num_threads=given.append)
    monkeypatch.setitem(sys.modules, "numba", numba)
    monkeypatch.setitem(sys.modules, "torch", torch)
    set_threads(3)
    assert given == [1, 1, 3, 2]


#: The one that has the streams, if any.
COMPILED = pytest.mark.parametrize(
    "backend", [name for name in _backend.available if name != "numpy"][:1], indirect=True
)


@COMPILED
@pytest.mark.parametrize("member", family.__all__)
def test_the_streams_are_those_of_each_member(member, backend):
    """One addition for each number of the parameter and of the state."""
    param = np.ones(1001, np.float32)
    opt = getattr(fastadam, member)(param)
    opt._batch.streams(np.full_like(param, 2))
    (slot,) = opt._batch.arrays.slots
    states = [state for state in slot.state if state is not None]
    assert np.all(param == 3)
    assert opt.state_bytes == sum(state.nbytes for state in states)
    assert all(np.all(state == 2) for state in states)


@COMPILED
@pytest.mark.parametrize(
    "options", [{"state_dtype": "bfloat16"}, {"state_dtype": "int8"}, {"dtype": np.float16}]
)
def test_the_streams_of_fewer_bits_are_refused(options, backend):
    grad = np.ones(2**14, options.get("dtype", np.float32))
    opt = fastadam.Adam(grad.copy(), state_dtype=options.get("state_dtype"))
    with pytest.raises(ValueError, match="fewer bits"):
        opt._batch.streams(grad)


def test_bench_says_how_far_it_is(capsys):
    """On stderr, for stdout may be JSON."""
    assert main(["bench", "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert err == "measuring 1 of 2: 1 x 10\nmeasuring 2 of 2: 2 x 100\n"


@once
@pytest.mark.parametrize("variables", [{}, {"FASTADAM_BACKEND": "numpy"}])
def test_bench_without_other_libraries(variables):
    result = run("bench", before=SMALL, **variables)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    compiled = _backend.available[:-1] and not variables
    assert ("NumPy backend, 1 thread; " in lines[0]) == (not compiled)
    streams = ["streams only"] if compiled else []
    ways = ["fastadam", *streams, "textbook NumPy"]
    assert re.split("  +", lines[1].strip()) == ["arrays x elements", *ways]
    missing = [line.partition(" (")[0] for line in lines if line.startswith("not measured: ")]
    rivals = ["torch fused", "numba parallel", "scikit-learn", "thinc"]
    assert missing == [f"not measured: {name}" for name in rivals]


class TestCtrlC:
    @pytest.fixture
    def interrupted(self, monkeypatch):
        """In the second case."""
        calls = []

        def measure_once(*arguments, **options):
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return measure(*arguments, seconds=0.0, **options)

        monkeypatch.setattr(cli, "measure", measure_once)

    def test_leaves_what_was_measured(self, interrupted, capsys, tmp_path):
        pytest.importorskip("matplotlib")
        assert main(["bench", "--plot", str(tmp_path / "x.png")]) == 130
        out, err = capsys.readouterr()
        assert err.splitlines()[-1] == "interrupted: 1 of 2 cases were measured"
        _, _, first, *rest = out.splitlines()
        assert first.strip().startswith("1 x 10 ")
        assert not any(line.strip().startswith("2 x 100") for line in rest)
        assert not list(tmp_path.iterdir())

    def test_leaves_no_half_json(self, interrupted, capsys):
        assert main(["bench", "--json"]) == 130
        assert capsys.readouterr().out == ""

    def test_before_the_first_case(self, monkeypatch, capsys):
        def measure_none(*arguments, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "measure", measure_none)
        assert main(["bench"]) == 130
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[-1] == "interrupted: 0 of 2 cases were measured"

    def test_is_not_lost_where_an_import_swallows_it(self, monkeypatch, unmeasured, capsys):
        def swallowing(params, grads):
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise ImportError("it was interrupted")

        before = signal.getsignal(signal.SIGINT)
        monkeypatch.setitem(rivals.RIVALS, "absent", swallowing)
        assert main(["bench"]) == 130
        assert capsys.readouterr().err.endswith("interrupted: 0 of 2 cases were measured\n")
        assert signal.getsignal(signal.SIGINT) is before

    def test_stays_ignored_where_it_was(self, monkeypatch, capsys):
        def pressing(params, grads):
            signal.raise_signal(signal.SIGINT)
            raise ImportError("absent")

        monkeypatch.setitem(rivals.RIVALS, "absent", pressing)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            assert main(["bench"]) == 0
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)
        assert "2 x 100" in capsys.readouterr().out

    @once
    @pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
    def test_is_no_traceback(self):
        code = f"""import sys
{SMALL}
from functools import partial
cli.measure = partial(cli.measure, seconds=60)
from fastadam.__main__ import main
sys.exit(main(["bench"]))
"""
        child = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", code],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun = child.stderr.readline()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert begun == "measuring 1 of 2: 1 x 10\n"
        assert (child.returncode, out) == (130, "")
        assert err == "interrupted: 0 of 2 cases were measured\n"


class TestAPicture:
    def test_needs_matplotlib(self, unmeasured, capsys, monkeypatch):
        for name in ("matplotlib", "matplotlib.backend_bases"):
            monkeypatch.setitem(sys.modules, name, None)
        message = refused(capsys, "bench", "--plot", "x.png")
        assert message.startswith("bench: error: --plot needs matplotlib (")
        assert message.endswith("): pip install matplotlib")

    @pytest.mark.parametrize("name", ["picture", "picture.xyz", "picture.", ".png", ""])
    def test_needs_a_suffix_of_its_format(self, name, unmeasured, capsys):
        pytest.importorskip("matplotlib")
        message = refused(capsys, "bench", "--plot", name)
        assert message.startswith(f"bench: error: --plot {name}: the name must end in one of .")
        assert ", .png, " in message

    def test_needs_a_folder(self, tmp_path, unmeasured, capsys):
        pytest.importorskip("matplotlib")
        path = tmp_path / "gone" / "picture.png"
        assert refused(capsys, "bench", "--plot", str(path)) == (
            f"bench: error: --plot {path}: there is no folder {path.parent} that can be written to"
        )

    @pytest.mark.parametrize("name", ["picture.png", "picture.SVG"])
    def test_is_where_the_last_line_says(self, name, tmp_path, capsys):
        pytest.importorskip("matplotlib")
        path = tmp_path / name
        assert main(["bench", "--plot", str(path)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"picture: {path}"
        assert list(tmp_path.iterdir()) == [path]
        assert main(["bench", "--json", "--plot", str(path)]) == 0
        json.loads(capsys.readouterr().out)

    @pytest.mark.parametrize("ways", [2, 7])
    def test_can_be_read(self, ways):
        """No figure lies on another, or on the frame; the fastest and slowest are far apart."""
        pytest.importorskip("matplotlib")
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        times = [1e-6, 2e-7, 0.99e-6, 1e-6, 2e-6, 3e-5, 1.2e-2]
        names = ["fastadam", "streams only", "textbook NumPy", "torch fused", "numba", "x", "thinc"]
        seconds = dict(list(zip(names, times, strict=True))[:ways])
        results = [
            {"arrays": 1, "elements": 10, "seconds": seconds},
            {"arrays": 1, "elements": 16_777_216,
             "seconds": {name: 1e4 * time for name, time in seconds.items()}},
        ]  # fmt: skip
        figure = cli._figure(
            {"config": {"threads": 64}, "cpu": "A CPU", "dtype": "float32", "results": results * 2}
        )
        FigureCanvasAgg(figure).draw()
        for axes in figure.axes:
            frame = axes.get_window_extent()
            texts = axes.texts
            assert len(texts) == ways
            boxes = [text.get_window_extent() for text in texts]
            for k, box in enumerate(boxes):
                assert frame.x0 < box.x0 < box.x1 < frame.x1
                assert frame.y0 < box.y0 < box.y1 < frame.y1
                assert not any(box.overlaps(other) for other in boxes[:k])
        left, right = (axes.title.get_window_extent() for axes in figure.axes[:2])
        assert left.x1 < right.x0
        labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        assert len(labels) == ways
        assert all(label.x0 >= 0 for label in labels)
