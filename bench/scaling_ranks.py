"""What one rank measures for bench/scaling.py, which starts this under mpiexec.

Rank 0 prints the seconds of each call as JSON: medians over rounds, of the slowest rank in each.
"""

import json
import time

import numpy as np
from mpi4py import MPI
from scaling_model import (
    CACHED,
    CLIPPED,
    FEW_BUCKET,
    LARGEST,
    MIB,
    NUMBER,
    PLAIN,
    SENT,
    SIZES,
    WAYS,
)

import fastadam
from fastadam.mpi import ZeroRedundancyOptimizer

ROUNDS = 7
comm = MPI.COMM_WORLD
found = {}


def measure(calls):
    """Time calls, interleaved, each over some 20 ms."""
    repeats = []
    for call in calls.values():
        call()
        begin = time.perf_counter()
        call()
        repeats.append(comm.bcast(max(1, int(0.02 / (time.perf_counter() - begin)))))
    times = np.empty((ROUNDS, len(calls)))
    for row in times:
        for i, call in enumerate(calls.values()):
            comm.Barrier()
            begin = time.perf_counter()
            for _ in range(repeats[i]):
                call()
            row[i] = (time.perf_counter() - begin) / repeats[i]
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    found.update(zip(calls, np.median(times, axis=0).tolist(), strict=True))


def arrays(numbers):
    return np.ones(numbers, np.float32), np.full(numbers, 1e-3, np.float32)


def adam(numbers):
    param, grad = arrays(numbers)
    opt = fastadam.Adam(param)
    return lambda: opt.step(grad)


def zero(numbers, bucket_bytes, **options):
    param, grad = arrays(numbers)
    opt = ZeroRedundancyOptimizer(param, fastadam.Adam, bucket_bytes=bucket_bytes, **options)
    return lambda: opt.step(grad)


def plain(numbers, bucket_bytes):
    """An all-reduce, and a step of everything, which divides by the number of ranks."""
    param, grad = arrays(numbers)
    grad[:] = 0  # which sums in place leave as it is
    opt, most = fastadam.Adam(param), bucket_bytes // NUMBER
    pieces = [grad[i : i + most] for i in range(0, numbers, most)]

    def call():
        for piece in pieces:
            comm.Allreduce(MPI.IN_PLACE, piece)
        opt.step(grad, loss_scale=comm.size)

    return call


def of_way(way, size, numbers):
    if way == PLAIN:
        return plain(numbers, size)
    return zero(numbers, size, **({"max_grad_norm": 1.0} if way == CLIPPED else {}))


def collectives(size):
    """A reduce-scatter and an allgather of so many bytes, to be waited for."""
    whole = np.zeros(max(size // NUMBER, comm.size), np.float32)
    counts = [len(whole) // comm.size] * comm.size
    begins = [counts[0] * rank for rank in range(comm.size)]
    piece = np.empty(counts[0], np.float32)
    return (
        lambda: comm.Ireduce_scatter(whole, piece, counts, MPI.SUM),
        lambda: comm.Iallgatherv(MPI.IN_PLACE, (whole, (counts, begins))),
    )


def waiting(begin, meanwhile=lambda: None):
    def call():
        request = begin()
        meanwhile()
        request.Wait()

    return call


def main():
    measure({"step": adam(LARGEST), "step in the cache": adam(CACHED)})
    for size in (0, *SENT):
        reduce, gather = map(waiting, collectives(size))
        measure({f"reduce {size}": reduce, f"gather {size}": gather})
    gather, step = collectives(16 * MIB)[1], adam(4 * MIB)
    measure({"gather": waiting(gather), "beside it": step, "both": waiting(gather, step)})
    measure({"least": zero(1, FEW_BUCKET)})
    measure({f"in {n}": zero(MIB, 4 * MIB // n) for n in (1, 64)})
    for numbers in SIZES:
        measure({f"{way} {size} {numbers}": of_way(way, size, numbers) for way, size in WAYS})
    if comm.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
