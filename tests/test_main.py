"""`python -m fastadam`: its options, alone and together; the benchmark on small work."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import fastadam
from fastadam import _backend, family
from fastadam.__main__ import main
from fastadam._bench import cli, rivals
from fastadam._bench.timing import measure


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
    assert f"version: {fastadam.__version__}\n" in capsys.readouterr().out
    assert main(["--json", "--require-compiled"]) == int(backend == "numpy")
    assert json.loads(capsys.readouterr().out) == fastadam.show_config(mode="dicts")


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
        assert "nothing was measured: NumPy stands in" in err
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
