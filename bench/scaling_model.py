"""What a step costs on N machines: the model that bench/scaling.py checks and draws."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastadam._numpy import NORM_BLOCK

NUMBER = 4  # bytes of a float32
MOVED = 7 * NUMBER  # bytes that Adam reads and writes for a number
STATE = 2 * NUMBER  # bytes that it keeps
FEW_BUCKET = 1 << 22  # bytes of a bucket up to 16 ranks
PER_RANK = 1 << 18  # and of a larger one for each rank
ZERO, CLIPPED, PLAIN, SPREAD = "ZeRO-1", "ZeRO-1, clipped", "all-reduce", "spread"
KIB, MIB = 1 << 10, 1 << 20

#: What is measured: steps of so many numbers, in buckets of so many bytes; and what is sent.
CACHED, LARGEST = 32 * KIB, 16_777_216
SIZES = (1_000_000, 4_000_000, LARGEST)
WAYS = [(ZERO, 256 * KIB), (ZERO, 4 * MIB), (ZERO, 64 * MIB), (CLIPPED, 4 * MIB)]
WAYS += [(PLAIN, 4 * MIB), (PLAIN, 64 * MIB)]
SENT = (4 * MIB, 16 * MIB, 64 * MIB)


@dataclass(frozen=True)
class Machine:
    """The constants of the model, in seconds and bytes."""

    cores: int
    memory_bandwidth: float  # bytes/s of all ranks of the machine together
    thread_bandwidth: float  # that one thread reaches alone
    arithmetic: float  # s for a number that is in the cache, of one thread
    copying: float  # s for a byte
    adding: tuple[tuple[float, float], ...]  # (bytes that are received at a time, s to add one)
    call: float  # s for a step, whatever its size
    handling: float  # s for a bucket, whatever its size
    latency: float  # s for a message
    link_bandwidth: float  # bytes/s that a rank sends while it receives as many
    overlap: float  # how much of the shorter of communication and arithmetic the longer hides
    ranks: int = 1  # on the machine
    threads: int = 1  # of a rank


class Cost(NamedTuple):
    """Of a step, for one rank: seconds, and bytes."""

    communication: float
    arithmetic: float
    hidden: float  # seconds in which both go on
    sent: float
    moved: float
    memory: float

    @property
    def total(self):
        return self.communication + self.arithmetic - self.hidden


def cost(machine, way, ranks, numbers, bucket_bytes=FEW_BUCKET):
    """What a step costs each of N ranks, of P float32 that Adam steps.

    There are B buckets of b = 4P / B bytes, and f = (N-1) / N of a bucket belongs to others. With
    a for the latency, and l, c and d for the seconds in which a byte is sent, copied and added,
    collective operations take (Thakur, Rabenseifner, Gropp 2005; the first by pairwise exchange,
    the second in a ring, the third by Rabenseifner's algorithm)

        reduce-scatter  R = (N-1) a + f b (l + d)
        allgather       G = (N-1) a + f b l
        all-reduce      A = 2 log2(N) a + f b (2l + d)
        of a few bytes  S = log2(N) a

    A number that is stepped takes s = max(arithmetic, 28 bytes / memory bandwidth of the rank).
    The part of a bucket that a rank steps, p bytes, is copied once and divided by N:

        U = s p/4 + 2 c p + handling

        ZeRO-1           2S + call + B (R + U + G) - overlap (B-1) min(R + G, U)
        ZeRO-1, clipped  3S + call + B (R + U + G) - overlap (B-1) min(G, U) + norm
        all-reduce       B A + s P
        spread           S + call + s P/N

    The norm wants the gradients of the share, 4P/N bytes, written to memory and read once more.
    Where a machine has fewer cores than threads, all but memory takes as many times longer.
    """
    crowd = max(1.0, machine.ranks * machine.threads / machine.cores)
    shared = machine.memory_bandwidth / machine.ranks
    bandwidth = min(machine.threads * machine.thread_bandwidth, shared)
    number = max(machine.arithmetic * crowd / machine.threads, MOVED / bandwidth)
    call = machine.call * crowd
    small = math.log2(ranks) * machine.latency * crowd
    if way == SPREAD:
        share = numbers / ranks
        step = call + share * number
        return Cost(small, step, 0.0, 0.0, MOVED * share, (2 * NUMBER + STATE) * share)

    least = 0 if way == PLAIN else NUMBER * NORM_BLOCK * ranks
    buckets = math.ceil(NUMBER * numbers / max(bucket_bytes, least))
    size = NUMBER * numbers / buckets
    others = size * (ranks - 1) / ranks  # bytes of a bucket that belong to others
    received, to_add = np.transpose(machine.adding)
    at_a_time = size / (2 if way == PLAIN else ranks)
    add = float(np.interp(math.log(at_a_time), np.log(received), to_add)) * crowd
    byte = crowd / machine.link_bandwidth
    sent = 2 * others * buckets
    memory = 2 * NUMBER * numbers  # parameters and gradients
    if way == PLAIN:
        communication = buckets * (2 * small + others * (2 * byte + add))
        step = numbers * number
        return Cost(communication, step, 0.0, sent, MOVED * numbers, memory + STATE * numbers)

    rounds = (ranks - 1) * machine.latency * crowd
    reduce, gather = rounds + others * (byte + add), rounds + others * byte
    part = min(max(size / ranks, NUMBER * NORM_BLOCK), size)  # bytes of the busiest rank
    copies = (2 if ranks > 1 else 1) * part * machine.copying * crowd
    update = part / NUMBER * number + copies + machine.handling * crowd
    beside = gather if way == CLIPPED else reduce + gather
    hidden = machine.overlap * (buckets - 1) * min(beside, update)
    communication = (3 if way == CLIPPED else 2) * small + buckets * (reduce + gather)
    share = part * buckets
    again = share if way == CLIPPED else 0  # gradients, written to memory and read for the norm
    step = call + buckets * update + 2 * again / bandwidth
    moved = MOVED / NUMBER * share + 2 * again
    memory += STATE / NUMBER * share + 4 * size + again
    return Cost(communication, step, hidden, sent, moved, memory)
