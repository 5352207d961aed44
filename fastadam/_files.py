"""Checkpoint files: a JSON header and arrays, replaced as a whole and checked as a whole.

This is version 1 of the format. All numbers are unsigned and little endian:

=============  ================================================================================
bytes          content
=============  ================================================================================
8              ``fastadam``
4              the format's version
4              length of the header, h
8              length of the file
4              CRC-32 of the header
4              CRC-32 of the 28 bytes before (all versions begin with 32 bytes of this layout)
h              the header: JSON in UTF-8, and spaces so that 64 divides 32 + h
...            the arrays in C order, each followed by zeros up to a multiple of 64 bytes
4 per block    CRC-32 of each 4 MiB of the arrays and zeros (the last block may be shorter)
=============  ================================================================================

The JSON is ``{"header": {...}, "arrays": [...]}``. What an optimizer puts into ``header`` is
described in `_checkpoint`. ``arrays`` has an object for each array, in the order of the file,
with its ``name``, ``dtype`` (``<f4``, ``<f8``, ``<c8``, ``<c16``, ``<f2``, ``<i2``, ``|u1`` or
``bfloat16``), ``shape``, and ``offset`` in bytes from the end of the header. Numbers that are not
finite are written as ``NaN``, ``Infinity`` and ``-Infinity``.

In a safetensors file the metadata hold the same JSON under ``fastadam``, the version of the
format under ``version``, and a checksum under ``crc32``: the CRC-32, in hexadecimal, of the JSON
followed by the CRC-32 of each 4 MiB as above. A complex array is stored there as a real one with
another axis of 2 at its end, since that format lacks complex128. For bfloat16 the library needs
the package ml_dtypes.

A save that is killed leaves a file ``.fastadam-*.tmp`` (if the safetensors library was writing,
``.tmp*``) beside the one that it was to replace. Nothing ever reads it; it may be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from fastadam import _safetensors
from fastadam._types import Array

Path: TypeAlias = str | os.PathLike[str]

MAGIC = b"fastadam"
VERSION = 1
PREFIX = struct.Struct("<8sIIQII")
BLOCK = 1 << 22
ALIGNMENT = 64
BFLOAT16 = "bfloat16"  # here, as in _codecs.py, an array of uint16
#: What files call dtypes, and what the safetensors library calls those that it has.
DTYPES = {
    "<f4": "F32",
    "<f8": "F64",
    "<c8": None,
    "<c16": None,
    "<f2": "F16",
    "<i2": "I16",
    "|u1": "U8",
    BFLOAT16: "BF16",
}
#: The dtypes of arrays that have the numbers which files call so.
STORED = {name: np.dtype("<u2" if name == BFLOAT16 else name) for name in DTYPES}
# Checksums would be slower than the file if one thread computed them: a cached file is read at
# 6 GB/s, and CRC-32 runs at 3.5 GB/s in each thread (SHA-256, in hardware, at 1.5, BLAKE2b at 0.6).
THREADS = 4
#: Endings that promise another format.
FOREIGN = {
    ".csv", ".h5", ".hdf5", ".json", ".keras", ".mat", ".msgpack", ".npy", ".npz", ".onnx",
    ".parquet", ".pickle", ".pkl", ".pt", ".pth", ".txt", ".yaml", ".zip",
}  # fmt: skip
DAMAGED = "damaged (checksum differs)"
SAFETENSORS = ".safetensors"  # the ending of files of that format
ABSENT = object()  # what `expect` is given in place of a value that is not there
# What messages call the types of values that come from JSON.
KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
    object: "missing",
}


class Spec(NamedTuple):
    """How an array is stored, its elements in C order and little endian."""

    shape: tuple[int, ...]
    dtype: str


def write(path: Path, header: dict[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a header and arrays to a file, or leave the file as it was.

    Parameters
    ----------
    path : str or os.PathLike
        A name ending in ``.safetensors`` makes a file of that format.
    header : dict
        Whatever JSON can hold.
    arrays : mapping of str to ndarray
        float32, float64, complex64, complex128, float16, int16, uint8, or uint16 that stands
        for bfloat16. They must not change meanwhile.

    Raises
    ------
    OSError
        The file cannot be written.
    TypeError, ValueError
        JSON cannot hold the header, or the file the arrays, or the name promises another format.
    ImportError
        The safetensors library is not there.
    """
    path = os.fsdecode(path)
    check_ending(path)
    if path.endswith(SAFETENSORS):
        _safetensors.write(path, _describe(header, arrays), arrays)
        return
    plan = layout(header, arrays)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(plan.head)
        file.write(stream(file.write, map(little, arrays.values()), file.fileno()))


def check_ending(path: str) -> None:
    """Check that a file's name does not promise another format, else a ValueError."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in FOREIGN:
        raise ValueError(
            f"{path}: programs that read {suffix} files cannot read a checkpoint; use another "
            "ending, such as .ckpt, or .safetensors for a file of that format"
        )


class Layout(NamedTuple):
    """A file of fastadam's own format, but for its arrays and their checksums."""

    head: bytes
    begins: dict[str, int]  # where each array begins in the file
    stop: int  # where the arrays end, and the checksums begin
    length: int  # of the file


def layout(header: dict[str, Any], arrays: Mapping[str, Array]) -> Layout:
    """What a file with this header and arrays of these shapes and dtypes has, and where."""
    text = _describe(header, arrays)
    text += b" " * (-(PREFIX.size + len(text)) % ALIGNMENT)
    begins, stop = {}, PREFIX.size + len(text)
    for name, array in arrays.items():
        begins[name] = stop
        stop += _padded(array.nbytes)
    length = stop + _table_size(stop - PREFIX.size - len(text))
    prefix = PREFIX.pack(MAGIC, VERSION, len(text), length, zlib.crc32(text), 0)[:-4]
    head = prefix + struct.pack("<I", zlib.crc32(prefix)) + text
    return Layout(head, begins, stop, length)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read what `write` wrote, once all of it is checked.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no checkpoint, truncated, damaged or of a newer version; the message says which.
    ImportError
        The safetensors library is not there.
    """
    path = os.fsdecode(path)
    with naming(path):
        return _safetensors.read(path) if path.endswith(SAFETENSORS) else _read(path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put a file's name before the messages of errors that its content causes.

    The errors come out as TypeError, ValueError or KeyError, and never as a subclass, whose
    constructor may take other arguments.
    """
    path = os.fsdecode(path)
    try:
        yield
    except (TypeError, ValueError, KeyError) as error:
        base = next(kind for kind in (TypeError, ValueError, KeyError) if isinstance(error, kind))
        message = error.args[0] if len(error.args) == 1 else error
        raise base(f"{path}: {message}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: damaged (the header is nested too deeply)") from error


def expect(label: str, value: Any, kind: type) -> Any:
    """A value from a file's JSON, if its type is the expected one, else a ValueError.

    `label` says in the message which value it is.
    """
    if type(value) is not kind:
        raise ValueError(f"damaged ({label} is {KINDS[type(value)]}, expected {KINDS[kind]})")
    return value


def _read(path: str) -> tuple[dict[str, Any], dict[str, Array]]:
    with open(path, "rb") as file:
        header, specs, _ = _read_head(file)
        try:
            arrays = {
                name: np.empty(shape, STORED[dtype]) for name, (shape, dtype) in specs.items()
            }
        except ValueError as error:  # an array without elements that is too long in one axis
            raise ValueError(f"damaged ({error})") from None
        # What a file that shrinks meanwhile leaves unread, the checksums find.
        if stream(file.readinto, arrays.values()) != file.read():
            raise ValueError(DAMAGED)
    return header, {name: native(array) for name, array in arrays.items()}


class Mapped(NamedTuple):
    """A file whose arrays are read when they are used; `check` has not seen them yet."""

    header: dict[str, Any]
    arrays: dict[str, Array]
    body: Array  # all bytes of the arrays and of the zeros behind them
    table: bytes  # the checksums that the file has for them

    def check(self, part: int, n_parts: int) -> None:
        """Compare one of so many parts with the checksums, else a ValueError."""
        first, stop = share(len(self.body), part, n_parts)
        if sums(self.body, first, stop) != self.table[4 * first : 4 * stop]:
            raise ValueError(DAMAGED)


def mapped(path: Path) -> Mapped:
    """A file that `write` wrote, not in the format of safetensors; errors are those of `read`."""
    path = os.fsdecode(path)
    with naming(path):
        with open(path, "rb") as file:
            header, specs, total = _read_head(file)
            begin = file.tell()
            # Read-only, so that nobody takes a view of the file over as state.
            memory = np.memmap(file, np.uint8, "r").view(np.ndarray)
        body, table = memory[begin : begin + total], memory[begin + total :].tobytes()
        arrays, offset = {}, 0
        for name, (shape, dtype) in specs.items():
            n_bytes = math.prod(shape) * STORED[dtype].itemsize
            try:
                found = body[offset : offset + n_bytes].view(STORED[dtype]).reshape(shape)
            except ValueError as error:
                raise ValueError(f"damaged ({error})") from None
            arrays[name] = native(found)
            offset += _padded(n_bytes)
        return Mapped(header, arrays, body, table)


def share(n_bytes: int, part: int, n_parts: int) -> tuple[int, int]:
    """The first block of one of so many parts of a file's arrays, and the one behind its last."""
    n_blocks = -(-n_bytes // BLOCK)
    return n_blocks * part // n_parts, n_blocks * (part + 1) // n_parts


def sums(body: Array, first: int, stop: int) -> bytes:
    """The checksums of some blocks of BLOCK bytes of a file's arrays, as the file has them."""
    return stream(lambda piece: None, [body[first * BLOCK : stop * BLOCK]])


def sums_of(array: Array) -> bytes:
    """The checksums of an array's own blocks."""
    return stream(lambda piece: None, [little(array)])


def _read_head(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Spec], int]:
    """Read all that comes before the arrays: see `parse`. The file has the length it should."""
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(PREFIX.size)
    if not prefix.startswith(MAGIC[: len(prefix)]):
        raise ValueError("not a fastadam checkpoint")
    if len(prefix) < PREFIX.size:
        raise ValueError(truncated(size, f"at least {PREFIX.size}"))
    _, version, n_text, length, text_sum, prefix_sum = PREFIX.unpack(prefix)
    if zlib.crc32(prefix[:-4]) != prefix_sum:
        raise ValueError(DAMAGED)
    check_version(version)
    if size < length:
        raise ValueError(truncated(size, length))
    room = length - PREFIX.size - n_text
    if size > length or room < 0:
        raise ValueError(f"damaged (found {size} bytes, expected {length})")
    text = file.read(n_text)
    if zlib.crc32(text) != text_sum:
        raise ValueError(DAMAGED)
    header, specs, total = parse(text)
    if total + _table_size(total) != room:
        raise ValueError(f"damaged (its arrays need {total} bytes, which is not what it has)")
    return header, specs, total


def spec_of(array: Array) -> Spec:
    is_code = array.dtype == np.uint16
    return Spec(array.shape, BFLOAT16 if is_code else array.dtype.newbyteorder("<").str)


def _describe(header: dict[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """A file's JSON; `parse` reads it."""
    entries, offset = [], 0
    for name, array in arrays.items():
        spec = spec_of(array)
        if spec.dtype not in DTYPES:
            raise TypeError(f"{name}: dtype {array.dtype}, which a checkpoint cannot hold")
        entries.append({"name": name, "offset": offset, **spec._asdict()})
        offset += _padded(array.nbytes)
    return json.dumps({"header": header, "arrays": entries}).encode()


def parse(text: bytes) -> tuple[dict[str, Any], dict[str, Spec], int]:
    """Check a file's JSON; return the user's header, the arrays' specs and their size in bytes.

    The size includes the zeros that follow each array.
    """
    try:
        content = json.loads(text.decode())
    except ValueError as error:
        raise ValueError(f"damaged (the header is not JSON: {error})") from None
    expect("the header", content, dict)
    header = expect("header", content.get("header", ABSENT), dict)
    specs: dict[str, Spec] = {}
    total = 0
    for i, entry in enumerate(expect("arrays", content.get("arrays", ABSENT), list)):
        label = f"arrays[{i}]"
        expect(label, entry, dict)
        name, dtype, shape, offset = (
            expect(f"{label}.{key}", entry.get(key, ABSENT), kind)
            for key, kind in (("name", str), ("dtype", str), ("shape", list), ("offset", int))
        )
        for axis, length in enumerate(shape):
            expect(f"{label}.shape[{axis}]", length, int)
        if name in specs:
            raise ValueError(f"damaged ({label}.name is {name!r}, as that of another array)")
        if dtype not in DTYPES:
            raise ValueError(
                f"damaged ({label}.dtype is {dtype!r}, expected one of {', '.join(DTYPES)})"
            )
        if len(shape) > 64 or not all(0 <= length < 2**63 for length in shape):
            raise ValueError(
                f"damaged ({label}.shape is {shape}, expected at most 64 lengths from 0 to "
                "2**63 - 1)"
            )
        if offset != total:
            raise ValueError(f"damaged ({label}.offset is {offset}, expected {total})")
        specs[name] = Spec(tuple(shape), dtype)
        total += _padded(math.prod(shape) * STORED[dtype].itemsize)
    return header, specs, total


def check_version(found: int | str) -> None:
    if isinstance(found, int) and found > VERSION:
        raise ValueError(
            f"written by a newer version of fastadam (found format version {found}, "
            f"expected at most {VERSION})"
        )
    if found != VERSION:
        raise ValueError(f"damaged (found format version {found!r}, expected {VERSION})")


def truncated(found: int, expected: object) -> str:
    return f"truncated (found {found} bytes, expected {expected})"


def _padded(n_bytes: int) -> int:
    """How many bytes an array takes with the zeros that follow it."""
    return n_bytes + -n_bytes % ALIGNMENT


def _table_size(total: int) -> int:
    """How many bytes the checksums of so many bytes of arrays take."""
    return 4 * -(-total // BLOCK)


def little(array: Array) -> Array:
    """The array in C order and little endian; a copy only if it is not."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def native(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def stream(
    step: Callable[[memoryview], object], arrays: Iterable[Array], written: int | None = None
) -> bytes:
    """Read or write arrays step by step, while threads compute the checksums it returns.

    A file descriptor that is `written` is synced meanwhile, too: 800 MB then take 0.7 s and
    not 1.0 s. The last block's is computed here, so that small files start no threads: CPython
    may hang at its exit if Ctrl-C interrupted the start of one.
    """
    sums: list[Future[int]] = []
    syncs: list[Future[None]] = []
    last: list[memoryview] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for i, block in enumerate(_blocks(arrays)):
            if last:
                sums.append(_submit(pool, _checksum, last))
            last = block
            for piece in block:
                step(piece)
            if written is not None and i % 16 == 15 and all(sync.done() for sync in syncs):
                syncs.append(_submit(pool, os.fsync, written))
        for sync in syncs:
            sync.result()
        found = [future.result() for future in sums] + ([_checksum(last)] if last else [])
        return struct.pack(f"<{len(found)}I", *found)


def _submit(
    pool: ThreadPoolExecutor, function: Callable[..., Any], argument: object
) -> Future[Any]:
    try:
        return pool.submit(function, argument)
    except RuntimeError:  # no new threads while the interpreter exits
        future: Future[Any] = Future()
        future.set_result(function(argument))
        return future


def _blocks(arrays: Iterable[Array]) -> Iterator[list[memoryview]]:
    """The arrays' memory, each with the zeros that follow it, cut into blocks of BLOCK bytes."""
    block: list[memoryview] = []
    room = BLOCK
    for array in arrays:
        padding = memoryview(bytearray(-array.nbytes % ALIGNMENT))
        for view in (array.reshape(-1).view(np.uint8).data, padding):
            start = 0
            while start < len(view):
                block.append(view[start : start + room])
                start += len(block[-1])
                room -= len(block[-1])
                if not room:
                    yield block
                    block, room = [], BLOCK
    if block:
        yield block


def _checksum(block: list[memoryview]) -> int:
    total = 0
    for piece in block:
        total = zlib.crc32(piece, total)
    return total


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """The name of a new file to write, which then takes the place of the old one at once.

    If writing fails, the new file is deleted, and the old one stays.
    """
    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    temporary = os.path.join(directory, f".fastadam-{secrets.token_hex(8)}.tmp")
    mode = _mode(target)
    try:
        open(temporary, "xb").close()
        if mode is not None:
            os.chmod(temporary, mode)
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        name_file(error, temporary, path)
        raise
    with contextlib.suppress(OSError):  # Windows cannot, nor can every file system
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def name_file(error: BaseException, temporary: str, path: str) -> None:
    """Let an error of the new file name the old one, also one of a full disk, which names none."""
    if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
        error.filename = path


def _mode(target: str) -> int | None:
    """The permissions of a file, once it is found to be one that may be written over.

    None if there is no file yet.
    """
    try:
        with open(target, "r+b", buffering=0) as file:
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):  # a rename, by root, replaces even /dev/null
        raise OSError(errno.EINVAL, "not a regular file", target)
    return stat.S_IMODE(mode)
