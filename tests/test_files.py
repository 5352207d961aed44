"""Checkpoint files: whole or refused, and the old one stays until the new one is whole."""

import errno
import json
import math
import os
import pathlib
import re
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastadam import _files, _safetensors

HEADER = {"lr": 0.1, "betas": [0.9, 1 - 2**-53], "name": 'é\x00"', "none": None, "inf": math.inf}
HOSTILE = [
    [],
    "text",
    None,
    {},
    {"header": {}},
    {"header": [], "arrays": []},
    {"header": {}, "arrays": {}},
    {"header": {}, "arrays": ""},
    {"header": {}, "arrays": 3},
    {"header": {}, "arrays": [3]},
]
ENTRY = {"name": "a", "dtype": "<f4", "shape": [4], "offset": 0}
HOSTILE_ENTRIES = [
    [{**ENTRY, "shape": [2**61]}],
    [{**ENTRY, "shape": [10**4000]}],
    [{**ENTRY, "shape": [2**40, 2**40]}],
    [{**ENTRY, "shape": [-4]}],
    [{**ENTRY, "shape": [-2, -2]}],
    [{**ENTRY, "shape": [4.0]}],
    [{**ENTRY, "shape": [True]}],
    [{**ENTRY, "shape": 4}],
    [{**ENTRY, "shape": "4"}],
    [{**ENTRY, "shape": [1] * 100}],
    [{**ENTRY, "shape": [20]}],
    [{**ENTRY, "shape": [100]}],
    [{**ENTRY, "dtype": "O"}],
    [{**ENTRY, "dtype": "<f4,<f4"}],
    [{**ENTRY, "dtype": ["<f4"]}],
    [{**ENTRY, "offset": 64}],
    [{**ENTRY, "offset": -64}],
    [{**ENTRY, "name": 1}],
    [{**ENTRY, "name": ["a"]}],
    [{"name": "a"}],
    [ENTRY, ENTRY],
    [ENTRY, {**ENTRY, "name": "b"}],
    [ENTRY, {**ENTRY, "name": "b", "offset": 32}],
    [ENTRY, {**ENTRY, "offset": 64}],
    [],
]
EMPTY_ENTRIES = [
    [ENTRY, {**ENTRY, "name": "b", "shape": [0, 2**70], "offset": 64}],
    [ENTRY, {**ENTRY, "name": "b", "shape": [0, 2**62, 2**62], "offset": 64}],
]


def make_arrays():
    rng = np.random.default_rng(80)
    arrays = {}
    for dtype in "f4", "f8", "c8", "c16":
        values = rng.standard_normal((4, 5, 2)).astype(dtype)
        values.flat[:3] = np.nan, -0.0, np.inf
        arrays |= {
            dtype: values,
            f"{dtype} F": np.asfortranarray(values),
            f"{dtype} strided": values[::2, ::-1, 1],
            f"{dtype} 0-d": values[0, 0, 0].reshape(()),
            f"{dtype} empty": values[:, :0],
            f"{dtype} no axis 0": values[:0],
            f"{dtype} foreign order": values.astype(f">{dtype}"),
            f"{dtype} unaligned": np.frombuffer(b"x" + values.tobytes(), dtype, -1, 1)
            if sys.byteorder == "little"
            else values,
        }
    return arrays


def make_small():
    return {"a": np.arange(7, dtype=np.float32), "é": np.array([[1 + 2j]]), "0": np.zeros(0)}


def check_same(found, arrays):
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        native = np.asarray(array, array.dtype.newbyteorder("="), order="C")
        assert found[name].dtype == native.dtype
        assert found[name].dtype.isnative
        assert found[name].shape == native.shape, name
        assert found[name].tobytes() == native.tobytes(), name
        assert found[name].flags.writeable
        assert found[name].flags.c_contiguous


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        _files.read(path)
    assert type(caught.value) is ValueError
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def build(content, data=bytes(64), *, version=1, table=None, length=None, n_text=None):
    """A file by the module's docstring, of whatever JSON."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    text += b" " * (-(32 + len(text)) % 64)
    if table is None:
        blocks = [data[i : i + (4 << 20)] for i in range(0, len(data), 4 << 20)]
        table = b"".join(struct.pack("<I", zlib.crc32(block)) for block in blocks)
    length = 32 + len(text) + len(data) + len(table) if length is None else length
    n_text = len(text) if n_text is None else n_text
    prefix = b"fastadam" + struct.pack("<IIQI", version, n_text, length, zlib.crc32(text))
    return prefix + struct.pack("<I", zlib.crc32(prefix)) + text + data + table


@pytest.mark.parametrize("block", [1 << 22, 64, 100])
def test_round_trip(tmp_path, monkeypatch, block):
    monkeypatch.setattr(_files, "BLOCK", block)
    arrays = make_arrays()
    _files.write(tmp_path / "x", HEADER, arrays)
    header, found = _files.read(str(tmp_path / "x"))
    assert header == HEADER
    check_same(found, arrays)
    assert os.listdir(tmp_path) == ["x"]


def test_several_blocks(tmp_path):
    arrays = {str(n): np.arange(n, dtype=np.float32) for n in (1 << 20, 17, 3_000_000)}
    arrays["F"] = np.arange(2e6).reshape(1000, -1).T
    _files.write(tmp_path / "x", {}, arrays)
    check_same(_files.read(tmp_path / "x")[1], arrays)


@pytest.mark.parametrize("name", ["", " ", "a/b", "\x00", "☃", "\ud800", "'\"\\", "x" * 10_000])
def test_odd_names(tmp_path, name):
    _files.write(tmp_path / "x", {name: name}, {name: np.ones(3)})
    header, found = _files.read(tmp_path / "x")
    assert header == {name: name}
    check_same(found, {name: np.ones(3)})


def test_no_arrays(tmp_path):
    _files.write(tmp_path / "x", {}, {})
    assert _files.read(tmp_path / "x") == ({}, {})


def test_subclasses(tmp_path):
    matrix = np.arange(6.0).reshape(2, 3).view(np.matrix)
    _files.write(tmp_path / "x", {}, {"a": matrix})
    check_same(_files.read(tmp_path / "x")[1], {"a": np.asarray(matrix)})


def test_format_is_as_documented(tmp_path):
    arrays = {"a": np.arange(5, dtype=np.float32), "b": np.arange(1_100_000) * (1 - 2j)}
    _files.write(tmp_path / "x", HEADER, arrays)
    entries = [
        {"name": "a", "dtype": "<f4", "shape": [5], "offset": 0},
        {"name": "b", "dtype": "<c16", "shape": [1_100_000], "offset": 64},
    ]
    data = arrays["a"].tobytes() + bytes(44) + arrays["b"].tobytes()
    written = (tmp_path / "x").read_bytes()
    n_text = struct.unpack("<I", written[12:16])[0]
    assert json.loads(written[32 : 32 + n_text]) == {"header": HEADER, "arrays": entries}
    assert written == build(written[32 : 32 + n_text], data)
    assert len(written) == 32 + n_text + len(data) + 4 * 5


def test_refuses_dtypes(tmp_path):
    for dtype in "u4", "i4", "O", "S3", "?":
        with pytest.raises(TypeError, match=r"^a: dtype"):
            _files.write(tmp_path / "x", {}, {"a": np.zeros(2, dtype)})
    with pytest.raises(TypeError, match="JSON"):
        _files.write(tmp_path / "x", {"x": object()}, {})
    assert os.listdir(tmp_path) == []


def test_memory(tmp_path, backend):
    if backend != "numpy":
        return
    arrays = {"a": np.ones(5_000_000), "b": np.ones((2_000, 1_000))}
    size = sum(array.nbytes for array in arrays.values())
    tracemalloc.start()
    try:
        _files.write(tmp_path / "x", {}, arrays)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.reset_peak()
        _files.read(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < size + 1_000_000
    finally:
        tracemalloc.stop()


def test_truncated(tmp_path):
    path = tmp_path / "x"
    _files.write(path, HEADER, make_small())
    whole = path.read_bytes()
    for n in range(len(whole)):
        expected = len(whole) if n >= 32 else "at least 32"
        assert refused(path, whole[:n]) == f"truncated (found {n} bytes, expected {expected})"


def test_flipped_bits(tmp_path):
    path = tmp_path / "x"
    _files.write(path, HEADER, make_small())
    whole = path.read_bytes()
    for i in range(len(whole)):
        flipped = bytearray(whole)
        flipped[i] ^= 1 << i % 8
        expected = "not a fastadam checkpoint" if i < 8 else "damaged (checksum differs)"
        assert refused(path, flipped) == expected


def test_swapped_blocks(tmp_path):
    path = tmp_path / "x"
    _files.write(path, {}, {"a": np.arange(1 << 20)[::-1].astype(float)})
    whole = path.read_bytes()
    n = len(whole) - 8 - (8 << 20)
    swapped = whole[:n] + whole[n + (4 << 20) : -8] + whole[n : n + (4 << 20)] + whole[-8:]
    assert len(swapped) == len(whole)
    assert refused(path, swapped) == "damaged (checksum differs)"


def test_trailing_bytes(tmp_path):
    path = tmp_path / "x"
    _files.write(path, {}, make_small())
    whole = path.read_bytes()
    n = len(whole)
    assert refused(path, whole + b"\n") == f"damaged (found {n + 1} bytes, expected {n})"


def test_foreign(tmp_path):
    path = tmp_path / "x"
    np.save(tmp_path / "a.npy", np.ones(100))
    np.savez(tmp_path / "a.npz", np.ones(100))
    for content in (
        (tmp_path / "a.npy").read_bytes(),
        (tmp_path / "a.npz").read_bytes(),
        b"some text, long enough to be read as a prefix of a checkpoint",
        b"\n",
        bytes(1000),
    ):
        assert refused(path, content) == "not a fastadam checkpoint"
    assert refused(path, b"") == "truncated (found 0 bytes, expected at least 32)"


def test_newer_version(tmp_path):
    content = build({"in": "another", "way": []}, b"of whatever length", version=7, table=b"")
    assert refused(tmp_path / "x", content) == (
        "written by a newer version of fastadam (found format version 7, expected at most 1)"
    )


def test_versions_that_there_are_not(tmp_path):
    content = {"header": {}, "arrays": []}
    message = "damaged (found format version {}, expected 1)"
    assert refused(tmp_path / "x", build(content, b"", version=0)) == message.format(0)
    library = pytest.importorskip("safetensors.numpy")
    text = json.dumps(content)
    for version in ("0", "-1", "²", "", "01", " 1", "1.0", "9" * 5000):
        metadata = {
            "fastadam": text,
            "version": version,
            "crc32": _safetensors._metadata_sum(text.encode(), []),
        }
        found = refused(tmp_path / "x.safetensors", library.save({}, metadata))
        assert found == message.format(repr(version))


def test_build_is_right(tmp_path):
    (tmp_path / "x").write_bytes(build({"header": {}, "arrays": [ENTRY]}))
    check_same(_files.read(tmp_path / "x")[1], {"a": np.zeros(4, np.float32)})


@pytest.mark.parametrize("entries", HOSTILE_ENTRIES)
def test_hostile_arrays(tmp_path, entries):
    text = json.dumps({"header": {}, "arrays": entries}).encode() if entries else b"\xff{}"
    assert refused(tmp_path / "x", build(text)).startswith("damaged (")


@pytest.mark.parametrize("entries", EMPTY_ENTRIES)
def test_hostile_arrays_without_elements(tmp_path, entries):
    message = refused(tmp_path / "x", build({"header": {}, "arrays": entries}))
    assert message.startswith("damaged (")


@pytest.mark.parametrize("content", HOSTILE, ids=repr)
def test_hostile_headers(tmp_path, content):
    assert refused(tmp_path / "x", build(content, b"")).startswith("damaged (")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the header is null, expected an object"),
        ({}, "header is missing, expected an object"),
        ({"header": []}, "header is a list, expected an object"),
        ({"header": {}}, "arrays is missing, expected a list"),
        ({"header": {}, "arrays": [None]}, "arrays[0] is null, expected an object"),
        (
            {"header": {}, "arrays": [{"name": 1}]},
            "arrays[0].name is a whole number, expected a string",
        ),
        (
            {"header": {}, "arrays": [{**ENTRY, "shape": [True]}]},
            "arrays[0].shape[0] is a boolean, expected a whole number",
        ),
        (
            {"header": {}, "arrays": [{**ENTRY, "shape": [-1]}]},
            "arrays[0].shape is [-1], expected at most 64 lengths from 0 to 2**63 - 1",
        ),
        (
            {"header": {}, "arrays": [{**ENTRY, "dtype": "O"}]},
            "arrays[0].dtype is 'O', expected one of <f4, <f8, <c8, <c16, <f2, <i2, |u1, bfloat16",
        ),
        ({"header": {}, "arrays": [{**ENTRY, "offset": 64}]}, "arrays[0].offset is 64, expected 0"),
        (
            {"header": {}, "arrays": [ENTRY, {**ENTRY, "offset": 64}]},
            "arrays[1].name is 'a', as that of another array",
        ),
    ],
)
def test_what_is_wrong_with_a_header(tmp_path, content, message):
    assert refused(tmp_path / "x", build(content, b"")) == f"damaged ({message})"


def test_hostile_json(tmp_path):
    for text in (
        b"",
        b"{",
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"header": {}, "arrays": [' + b"9" * 10_000 + b"]}",
        '{"header": {}, "arrays": []}'.encode("utf-16"),
    ):
        assert refused(tmp_path / "x", build(text, b"")).startswith("damaged (")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@st.composite
def contents(draw):
    """The JSON of a file and its arrays' bytes; in half of them something does not fit."""
    entries, n_bytes = [], 0
    for name in draw(st.lists(st.sampled_from("abc"), unique=True)):
        dtype = draw(st.sampled_from(list(_files.DTYPES)))
        shape = draw(st.lists(st.integers(0, 9), max_size=3))
        entries.append({"name": name, "dtype": dtype, "shape": shape, "offset": n_bytes})
        n_bytes += math.prod(shape) * _files.STORED[dtype].itemsize
        n_bytes += -n_bytes % 64
    content = {"header": draw(st.dictionaries(st.text(), JSON)), "arrays": entries}
    if draw(st.booleans()):
        place = draw(st.sampled_from([content, *entries]))
        key = draw(st.sampled_from(sorted(place)))
        if draw(st.booleans()):
            del place[key]
        else:
            values = ["c", "<f4", [], [1], [0, 2**62, 2**62], 0, 64, 64.0, True]
            place[key] = draw(st.sampled_from(values) | JSON)
    return content, (bytes(range(256)) * (n_bytes // 256 + 1))[:n_bytes]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(contents())
def test_any_json_is_taken_or_refused(tmp_path, content_and_data):
    """Where the checksums are right; what is taken is what the JSON says."""
    content, data = content_and_data
    path = tmp_path / "x"
    path.write_bytes(build(content, data))
    try:
        header, arrays = _files.read(path)
    except ValueError:
        message = refused(path, path.read_bytes())
        assert message.startswith("damaged (")
        assert "object is not" not in message
        return
    assert json.dumps(header) == json.dumps(content["header"])
    for entry, (name, array) in zip(content["arrays"], arrays.items(), strict=True):
        assert name == entry["name"]
        assert (array.shape, array.dtype) == (tuple(entry["shape"]), _files.STORED[entry["dtype"]])
        assert array.tobytes() == data[entry["offset"] :][: array.nbytes]


def test_hostile_lengths(tmp_path):
    good = {"header": {}, "arrays": [ENTRY]}
    for n_text in (0, 2**32 - 1):
        content = build(good, n_text=n_text)
        assert refused(tmp_path / "x", content).startswith("damaged (")
    assert refused(tmp_path / "x", build(good, length=2**63)).startswith("truncated (")
    assert refused(tmp_path / "x", build(good, length=0)).startswith("damaged (")
    assert refused(tmp_path / "x", build(good, table=b"")).startswith("damaged (")
    assert refused(tmp_path / "x", build(good, table=bytes(8))).startswith("damaged (")


def test_hostile_headers_allocate_little(tmp_path):
    entry = {**ENTRY, "shape": [10**12]}
    tracemalloc.start()
    try:
        refused(tmp_path / "x", build({"header": {}, "arrays": [entry]}))
        refused(tmp_path / "x", build({"header": {}, "arrays": [ENTRY]}, n_text=2**32 - 1))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_errors_of_open(tmp_path):
    for suffix in "", ".safetensors":
        if suffix:
            pytest.importorskip("safetensors")
        with pytest.raises(FileNotFoundError):
            _files.read(tmp_path / f"x{suffix}")
        with pytest.raises(FileNotFoundError):
            _files.write(tmp_path / f"none/x{suffix}", {}, {})
        directory = tmp_path / f"directory{suffix}"
        directory.mkdir()
        for function in _files.read, lambda path: _files.write(path, {}, {}):
            with pytest.raises((IsADirectoryError, PermissionError)):
                function(directory)
        assert os.listdir(directory) == []


def fail_to_sync(monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    return OSError


def interrupt_the_rename(monkeypatch):
    def interrupt(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    return KeyboardInterrupt


def interrupt_the_checksums(monkeypatch):
    def interrupt(block):
        raise KeyboardInterrupt

    monkeypatch.setattr(_files, "_checksum", interrupt)
    return KeyboardInterrupt


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
@pytest.mark.parametrize("fail", [fail_to_sync, interrupt_the_rename, interrupt_the_checksums])
def test_failures_leave_the_old_file(tmp_path, monkeypatch, fail, suffix):
    if suffix:
        pytest.importorskip("safetensors")
    path = tmp_path / f"x{suffix}"
    _files.write(path, {"old": 1}, make_small())
    with monkeypatch.context() as patch:
        error = fail(patch)
        with pytest.raises(error):
            _files.write(path, {"new": 2}, {"a": np.ones(1000)})
    assert os.listdir(tmp_path) == [path.name]
    header, found = _files.read(path)
    assert header == {"old": 1}
    check_same(found, make_small())


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_full_disk(tmp_path, suffix):
    resource = sys.modules.get("resource")
    if os.name == "posix":
        import resource
    if resource is None:
        return
    if suffix:
        pytest.importorskip("safetensors")
    path = tmp_path / f"x{suffix}"
    _files.write(path, {"old": 1}, make_small())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 10, 4096, 1_000_000, 8_000_100):  # Python ignores SIGXFSZ
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match=r"[Ff]ile too large"):
                _files.write(path, {"new": 2}, {"a": np.ones(1_000_000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path) == [path.name]
        assert _files.read(path)[0] == {"old": 1}


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_permissions(tmp_path, suffix):
    if os.name != "posix":
        return
    if suffix:
        pytest.importorskip("safetensors")
    path = tmp_path / f"x{suffix}"
    for umask in (0o022, 0o077, 0o002):
        old = os.umask(umask)
        try:
            _files.write(path, {}, {})
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        path.unlink()
    _files.write(path, {}, {})
    path.chmod(0o640)
    _files.write(path, {}, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o400)
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            _files.write(path, {}, {})


def test_links_are_followed(tmp_path):
    if os.name != "posix":
        return
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    link.symlink_to(target)
    for number in range(2):
        _files.write(link, {"number": number}, {})
        assert link.is_symlink()
        assert _files.read(target) == _files.read(link) == ({"number": number}, {})
    assert os.listdir(target.parent) == ["target"]


def test_only_files_are_replaced(tmp_path):
    if not hasattr(os, "mkfifo"):
        return
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        _files.write(tmp_path / "pipe", {}, {})
    assert os.listdir(tmp_path) == ["pipe"]


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _files.write("x", {"number": 1}, {})
    _files.write(pathlib.Path("x" * 255), {"number": 2}, {})
    assert _files.read("x")[0] == {"number": 1}
    assert _files.read("x" * 255)[0] == {"number": 2}


def test_saves_to_one_path_at_a_time(tmp_path):
    def save(number):
        for _ in range(5):
            _files.write(tmp_path / "x", {"number": number}, {"a": np.full(10_000, number, "f4")})

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    header, found = _files.read(tmp_path / "x")
    check_same(found, {"a": np.full(10_000, header["number"], np.float32)})
    assert os.listdir(tmp_path) == ["x"]


AT_EXIT = """
import atexit, sys
import numpy as np
from fastadam import _files

def save():
    _files.write(sys.argv[1], {"number": 1}, {"a": np.arange(3e6)})
    _files.read(sys.argv[1])

atexit.register(save)
"""


def test_at_exit(tmp_path, backend):
    """There no thread can be started."""
    if backend != "numpy":
        return
    run(AT_EXIT, tmp_path / "x")
    check_same(_files.read(tmp_path / "x")[1], {"a": np.arange(3e6)})


KILLS = """
import os, random, signal, sys, time
import numpy as np
from fastadam import _files

path, kills = sys.argv[1], 200
contents = [
    {"a": np.full(n, float(n)), "b": np.full((300, 500), n, np.float32)} for n in (7_000, 90_000)
]

def check():
    header, found = _files.read(path)
    expected = contents[header["number"]]
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    return header["number"]

random.seed(81)
start = time.perf_counter()
_files.write(path, {"number": 0}, contents[0])
for number in (1, 0, 1):
    _files.write(path, {"number": number}, contents[number])
seconds = (time.perf_counter() - start) / 4
numbers = []
for _ in range(kills):
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            number = 1 - number
            _files.write(path, {"number": number}, contents[number])
    time.sleep(random.uniform(0, 4 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    numbers.append(check())
left = [name for name in os.listdir(os.path.dirname(path)) if name != os.path.basename(path)]
assert all(name.startswith(".fastadam-") and name.endswith(".tmp") for name in left)
assert len(left) >= kills // 10, len(left)  # so many were killed amid a save
assert set(numbers) == {0, 1}
print(f"{kills} kills, {len(left)} temporary files left, a save takes {seconds:.4f} s")
"""


def test_kills(tmp_path, backend):
    if backend != "numpy" or not hasattr(os, "fork"):
        return
    print(run(KILLS, tmp_path / "x"))


def run(code, path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(path)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_safetensors_round_trip(tmp_path):
    pytest.importorskip("safetensors")
    arrays = make_arrays() | {"": np.ones(2), "☃\x00'\"": np.ones(2)}
    path = tmp_path / "x.safetensors"
    _files.write(path, HEADER, arrays)
    header, found = _files.read(str(path))
    assert header == HEADER
    check_same(found, arrays)
    assert os.listdir(tmp_path) == [path.name]
    _files.write(path, {}, {})
    assert _files.read(path) == ({}, {})


def test_safetensors_read_by_the_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    _files.write(tmp_path / "x.safetensors", HEADER, make_small())
    found = library.load_file(tmp_path / "x.safetensors")
    expected = make_small()
    expected["é"] = np.array([[[1.0, 2.0]]])
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], strict=True)


def test_safetensors_truncated(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "x.safetensors"
    _files.write(path, HEADER, make_small())
    whole = path.read_bytes()
    n_text = struct.unpack("<Q", whole[:8])[0]
    for n in range(len(whole)):
        message = refused(path, whole[:n])
        expected = len(whole) if n >= 8 + n_text else 8 + n_text
        if n > 8:
            assert message == f"truncated (found {n} bytes, expected {expected})"


def test_safetensors_flipped_bits(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "x.safetensors"
    _files.write(path, HEADER, make_small())
    whole = path.read_bytes()
    for i in range(len(whole)):
        flipped = bytearray(whole)
        flipped[i] ^= 1 << i % 8
        refused(path, flipped)


def test_safetensors_of_others(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    arrays = {"a": np.ones(3, np.float32)}
    for metadata in None, {"format": "np"}, {"fastadam": "{}"}:
        assert refused(path, library.save(arrays, metadata)) == "not a fastadam checkpoint"
    for content in b"", b"x", b"text", b"a text that is longer", build({}), bytes(100):
        assert refused(path, content) == "not a fastadam checkpoint"
    newer = {"fastadam": "?", "version": "2", "crc32": "?"}
    assert "newer version" in refused(path, library.save(arrays, newer))
    for text in ("?", "{}", '{"header": {}, "arrays": []}', "[" * 100_000):
        for version in ("1", "0", "-1", "²", ""):
            metadata = {"fastadam": text, "version": version, "crc32": "00000000"}
            assert refused(path, library.save(arrays, metadata)).startswith("damaged (")


@pytest.mark.parametrize(
    "entries",
    [
        [{**ENTRY, "shape": [3, 1]}],
        [{**ENTRY, "shape": [10**15]}],
        [{**ENTRY, "dtype": "<f8"}],
        [{**ENTRY, "dtype": "<c8"}],
        [{**ENTRY, "name": "b"}],
        [ENTRY, {**ENTRY, "name": "b", "offset": 64}],
    ],
)
def test_safetensors_that_contradict_themselves(tmp_path, entries):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.ones(4, np.float32)}
    text = json.dumps({"header": {}, "arrays": entries}).encode()
    metadata = {
        "fastadam": text.decode(),
        "version": "1",
        "crc32": _safetensors._metadata_sum(text, arrays.values()),
    }
    content = library.save(arrays, metadata)
    assert refused(tmp_path / "x.safetensors", content) == (
        "damaged (its arrays are not those that its metadata describe)"
    )


@pytest.mark.parametrize("kind", ["BF16", "F16", "F8_E4M3", "F64", "I32", "C64"])
def test_safetensors_of_foreign_dtypes(tmp_path, kind):
    """The library cannot make NumPy arrays of some of them."""
    pytest.importorskip("safetensors")
    size = {"BF16": 8, "F16": 8, "F8_E4M3": 4, "F64": 32, "I32": 16, "C64": 32}[kind]
    text = json.dumps({"header": {}, "arrays": [ENTRY]})
    metadata = {"fastadam": text, "version": "1", "crc32": "00000000"}
    array = {"dtype": kind, "shape": [4], "data_offsets": [0, size]}
    head = json.dumps({"__metadata__": metadata, "a": array}).encode()
    content = struct.pack("<Q", len(head)) + head + bytes(size)
    assert refused(tmp_path / "x.safetensors", content) == (
        "damaged (its arrays are not those that its metadata describe)"
    )


def test_safetensors_has_a_reserved_name(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match="__metadata__"):
        _files.write(tmp_path / "x.safetensors", {}, {"__metadata__": np.ones(1)})
    assert os.listdir(tmp_path) == []


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.numpy", raising=False)
    for function in _files.read, lambda path: _files.write(path, {}, {}):
        with pytest.raises(ImportError, match="pip install safetensors"):
            function(tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x.npz", "x.NPY", "x.pt", "x.pkl", "x.json", "x.tar.zip"])
def test_endings_of_other_formats_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"x\..*: programs that read \.\w+ files cannot read"):
        _files.write(tmp_path / name, HEADER, make_small())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x", "x.safetensors"])
def test_a_missing_folder_is_named(tmp_path, name):
    pytest.importorskip("safetensors")
    path = tmp_path / "none" / name
    with pytest.raises(FileNotFoundError) as caught:
        _files.write(path, HEADER, make_small())
    assert caught.value.filename == str(path)


def test_small_files_start_no_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("threading.Thread.start", lambda *_: pytest.fail("a thread was started"))
    _files.write(tmp_path / "x", HEADER, make_small())
    check_same(_files.read(tmp_path / "x")[1], make_small())
