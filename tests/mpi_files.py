"""Programs of test_mpi.py that write and read files; see mpi_programs.py."""

import errno
import itertools
import os
import pathlib
import resource
import sys
import tempfile

import numpy as np
from members import BY_NAME
from mpi_checks import (
    arrays_of,
    check_file,
    check_refused,
    comm,
    grads_of,
    leaves,
    pair,
    rank,
    same,
    seen,
    size,
    train,
)

import fastadam
from fastadam import _files
from fastadam._numpy import NORM_BLOCK
from fastadam.mpi import DistributedOptimizer, ZeroRedundancyOptimizer


def checkpoint(path, mode, name, dtype, state_dtype):
    """Written on some ranks, and read on others, and without MPI."""
    options = {"max_grad_norm": 30.0, "skip_nonfinite": True, "seed": 5}
    options["state_dtype"] = None if state_dtype == "None" else state_dtype
    if not BY_NAME[name].averages_itself:
        options["ema_decay"] = 0.75
    both = pair(name, dtype, **options)
    spread, alone, ours, theirs = both
    if mode == "save":
        train(*both, 5)
        spread.save(path, params=True, rng=np.random.default_rng(7))
        check_file(path, alone)
    else:
        rngs = [np.random.default_rng(1) for _ in range(2)]
        spread.load(path, rng=rngs[0])
        alone.load(path, rng=rngs[1])
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
        assert same(arrays_of(ours), arrays_of(theirs))
        train(*both, 5, first=20)
        state = spread.state_dict(to=size - 1)
        assert (state is None) == (rank != size - 1)
        whole = alone.state_dict()
        spread.load_state_dict(whole)
        assert seen(spread.state_dict()) == seen(whole)


def saves(path):
    """Save again and again; rank 0 says which rank is which process, and what was saved."""
    w = np.zeros(1 << 20, np.float32)
    opt = ZeroRedundancyOptimizer(w, fastadam.Adam)
    pids = comm.gather(os.getpid())
    if rank == 0:
        print(*pids, flush=True)
    for count in itertools.count(1):
        opt.step(np.full_like(w, count))
        w[...] = count
        opt.save(path, params=True)
        if rank == 0:
            print("saved", flush=True)


def refused_files(path):
    """What one rank cannot write or read, no rank does; the old file and the state stay."""
    spread, _, ours, _ = pair("Adam")
    spread.save(path, params=True)
    spread.step(grads_of(ours, 0, rank))
    file, last = pathlib.Path(path), size - 1
    before, state = file.read_bytes(), seen(spread.state_dict())

    def check(call, kind, *words):
        check_refused(arrays_of(ours), call, kind, *words)
        assert seen(spread.state_dict()) == state  # which all ranks call
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file]

    def save(name=path, **options):
        return lambda: spread.save(name, **options)

    check(save(params=rank == 0), RuntimeError, "the ranks do not do the same")
    check(save(rng=np.random.default_rng(rank)), RuntimeError, "the ranks do not do the same")
    check(save(rng=[7] if rank == last else []), TypeError, f"rank {last}: rng is")
    check(save("x.npz" if rank == last else path), ValueError, f"rank {last}: x.npz")
    group, b = ours[0]["params"], ours[0]["params"]["b"]
    if rank == last:
        group["b"] = b.copy()
    check(save(params=True), ValueError, f"rank {last}: ", "params[0]['b']")
    group["b"] = b
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for full in (0, last):  # as if the disk of one rank were full
        if rank == full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, limits[1]))
        check(save(params=True), OSError, f"rank {full}: [Errno {errno.EFBIG}]", path)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check(lambda: spread.load(path if rank == 0 else path + "x"), FileNotFoundError, "rank 1: ")
    with tempfile.TemporaryDirectory() as folder:
        damaged = pathlib.Path(folder) / "x.ckpt"
        damaged.write_bytes(before[:-40] + bytes([before[-40] ^ 1]) + before[-39:])
        check(lambda: spread.load(damaged), ValueError, f"rank {last}: ", "/x.ckpt: damaged")
        newer = f"{folder}/y.ckpt"
        spread.save(newer)  # where rank 0 says
        mine = path if rank else newer
        check(lambda: spread.load(mine), RuntimeError, "the ranks do not do the same")
    spread.load(path)
    assert spread.finished_steps == 0
    averaged, _, copies, _ = pair("Adam", ema_decay=0.5)
    for param in arrays_of(copies):
        param[...] = 0
    averaged.load(path)
    assert same([p for group in averaged.averaged_params() for p in leaves(group)], arrays_of(ours))


def no_library(path):
    """Without the safetensors library, the error is the one that is documented."""
    spread, _, ours, _ = pair("Adam")
    sys.modules["safetensors.numpy"] = None
    for call in (spread.save, spread.load):
        check_refused(arrays_of(ours), lambda call=call: call(path), ImportError, "pip install")


def other_arrays(path):
    """Files that differ in their arrays alone are noticed, also in the format of safetensors."""
    w = np.ones(9)
    opt = ZeroRedundancyOptimizer(w, fastadam.Adam)
    folder = pathlib.Path(path).parent
    for number in range(size):
        opt.save(folder / f"{number}.safetensors", params=True)
        w += 1
    own = folder / f"{rank}.safetensors"
    check_refused([w], lambda: opt.load(own), RuntimeError, "the ranks do not do the same: load")


def flip(path, place):
    """Change a bit of a file."""
    comm.Barrier()
    if rank == 0:
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
    comm.Barrier()


def damaged(path):
    """Damage anywhere in a file of many blocks is found by some rank and refused by all."""
    w = np.ones(3 << 20, np.float32)
    opt = ZeroRedundancyOptimizer(w, fastadam.Adam)
    opt.step(w)
    opt.save(path, params=True)
    n_bytes = os.path.getsize(path)
    assert n_bytes > 2 * size * _files.BLOCK
    for place in (5, 40, *range(_files.BLOCK // 2, n_bytes, _files.BLOCK), n_bytes - 1):
        flip(path, place)
        check_refused([w], lambda: opt.load(path), ValueError, "x.ckpt: ")
        flip(path, place)
    opt.load(path)
    if rank == 0:
        os.truncate(path, n_bytes - 1)
    comm.Barrier()
    check_refused([w], lambda: opt.load(path), ValueError, "x.ckpt: truncated")


def overwritten(path):
    """What was loaded does not change with the file."""
    w = np.ones(100, np.float32)
    opt = DistributedOptimizer(w, fastadam.Adam, state_dtype="bfloat16")
    opt.step(w)
    opt.save(path)
    opt.load(path)
    before = seen(opt.state_dict())
    comm.Barrier()
    if rank == 0:
        with open(path, "r+b") as file:
            file.write(bytes(os.path.getsize(path)))
    comm.Barrier()
    assert seen(opt.state_dict()) == before


def large(path):
    """More numbers than 32 bits can count, of which the first and the last ones are looked at."""
    from ml_dtypes import bfloat16

    n, m = (1 << 31) + 3 * NORM_BLOCK + 5, 9000
    w, grad = np.zeros(n, bfloat16), np.zeros(n, bfloat16)
    ends = [slice(0, m), slice(n - m, n)]
    rng = np.random.default_rng(0)
    opt = ZeroRedundancyOptimizer(w, fastadam.Lion, lr=0.125, state_dtype="int8")
    few = [np.zeros(m, bfloat16) for _ in ends]
    alone = fastadam.Lion(few, lr=0.125)
    for step in range(2):
        given = [rng.standard_normal(m).astype(bfloat16) for _ in ends]
        for end, values in zip(ends, given, strict=True):
            grad[end] = values
        opt.step(grad)
        alone.step(given)
        for end, own in zip(ends, few, strict=True):
            unlike = np.count_nonzero(w[end] != own)
            assert unlike <= step * m / 50  # 8 bits may give the sum of both steps another sign
    assert not w[m : n - m : 12345].any()
    opt.save(path, params=True)
    file = _files.mapped(path)
    file.check(rank, size)
    assert np.array_equal(file.arrays["0"][-m:], w[-m:].view(np.uint16))
    last = w[-m:].copy()
    del opt
    w[...] = 0
    again = ZeroRedundancyOptimizer(w, fastadam.Lion, state_dtype="int8")
    again.load(path)
    assert np.array_equal(w[-m:], last)
    again.step(grad)
    alone.step(given)
    assert np.count_nonzero(w[-m:] != few[1]) <= m / 50
