"""One checkpoint of all ranks, which they write and read together, each its part."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fastadam import _files
from fastadam._codecs import BLOCK, INT8
from fastadam._slots import real_of
from fastadam._types import Array
from fastadam.mpi._ranks import Ranks

#: What a checkpoint has: a header, and arrays by their names.
Content = tuple[dict[str, Any], Mapping[str, Array]]


class Part(NamedTuple):
    """What one rank has of an array of a checkpoint."""

    param: int  # the number of the parameter to which the array belongs
    name: str  # what it is of that parameter: "exp_avg", say, or "param" itself
    begin: int  # where in the array, in bytes
    values: Array


def named(
    param: int, names: Sequence[str], streams: Sequence[Array | None], first: int
) -> Iterator[Part]:
    """The parts that go with a parameter's real numbers from the one of this place on.

    Parameters
    ----------
    param : int
    names, streams : sequence
        Of those that are there, the arrays, and what they are called.
    first : int
        A multiple of 64 where they are stored in 8 bits.
    """
    for name, values in zip(names, streams, strict=True):
        if values is not None:
            begin = first * real_of(values.dtype).itemsize
            if values.dtype == INT8:
                begin = first // BLOCK * values.shape[1]
            yield Part(param, name, begin, values)


class Plan(NamedTuple):
    """Where the arrays are in a new file that takes the place of the old one in the end."""

    path: str
    temporary: str
    begins: list[dict[str, int]]  # of each parameter, by what they are of it
    start: int  # of all arrays
    stop: int


def stand_in(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of this form for a checkpoint's header, without memory of its own."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def write(ranks: Ranks, path: str, content: Content | None, parts: Iterable[Part]) -> None:
    """Write a checkpoint, or leave the file as it was, whichever rank fails.

    Each rank writes its parts into a new file and, once all are there, computes the checksums of
    its share of the blocks. Then rank 0 puts the file in the place of the old one. The ranks write
    by the calls of the operating system, whose errors say what is wrong; those of MPI's files do
    not.

    Parameters
    ----------
    ranks : Ranks
    path : str
    content : tuple or None
        On rank 0; the arrays are stand-ins.
    parts : iterable of Part
        Of this rank. It may call the others, so it is used up whatever happens.
    """
    with ExitStack() as stack:

        def begin() -> Plan | None:
            if content is None:
                return None
            layout = _files.layout(*content)
            temporary = stack.enter_context(_files.replacing(path))
            with _opened(temporary, path) as file:
                file.truncate(layout.length)
                file.write(layout.head)
            begins = [
                {name: layout.begins[stored] for name, stored in entry["arrays"].items()}
                for entry in content[0]["state"]
            ]
            return Plan(path, temporary, begins, len(layout.head), layout.stop)

        plan: Plan = ranks.comm.bcast(ranks.together("save", begin))
        ranks.together("save", lambda: _write_parts(plan, iter(parts)))
        table = ranks.together("save", lambda: _sums(plan, ranks))
        tables = ranks.comm.gather(table)

        def finish() -> None:
            if tables is not None:
                with _opened(plan.temporary, path) as file:
                    file.seek(plan.stop)
                    file.write(b"".join(tables))
                stack.close()

        ranks.together("save", finish)


@contextmanager
def _opened(temporary: str, path: str) -> Iterator[BinaryIO]:
    """The new file, to write in it; errors name the one whose place it takes."""
    try:
        with open(temporary, "r+b") as file:
            yield file
    except OSError as error:
        _files.name_file(error, temporary, path)
        raise


def _write_parts(plan: Plan, parts: Iterator[Part]) -> None:
    try:
        with _opened(plan.temporary, plan.path) as file:
            for part in parts:
                file.seek(plan.begins[part.param][part.name] + part.begin)
                file.write(bytes_of(part.values).data)
            file.flush()
            os.fsync(file.fileno())
    finally:
        for _ in parts:  # the others may wait for what it tells them
            pass


def _sums(plan: Plan, ranks: Ranks) -> bytes:
    """The checksums of this rank's share of the blocks, which any rank may have written."""
    body = np.memmap(plan.temporary, np.uint8, "r").view(np.ndarray)[plan.start : plan.stop]
    return _files.sums(body, *_files.share(len(body), ranks.rank, ranks.size))


def write_at_once(ranks: Ranks, path: str, content: Content | None, parts: Iterable[Part]) -> None:
    """The same by rank 0 alone, which gets the parts of the others."""
    found = ranks.comm.gather(list(parts))

    def finish() -> None:
        if content is None or found is None:
            return
        header, stand_ins = content
        arrays = {
            name: np.empty(array.shape, array.dtype.newbyteorder("<"))
            for name, array in stand_ins.items()
        }
        for part in (part for own in found for part in own):
            stored = header["state"][part.param]["arrays"][part.name]
            values = bytes_of(part.values)
            bytes_of(arrays[stored])[part.begin : part.begin + len(values)] = values
        _files.write(path, header, arrays)

    ranks.together("save", finish)


def bytes_of(array: Array) -> Array:
    """The bytes of an array as files have them; they share its memory if they lie so."""
    return _files.little(array).reshape(-1).view(np.uint8)
