"""What some fixed problems give on every machine, compiler and backend.

digests.json has the SHA-256 of each. Run as a script, this file writes it anew, which is right
only where the rule itself was changed.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from formats import bfloat16_params, code_bits
from members import BY_NAME, MEMBERS, has_codes

import fastadam
from fastadam import _checkpoint
from fastadam.schedules import cosine_decay, exponential_decay, join, linear

TABLE = Path(__file__).parent / "digests.json"
STEPS = 70  # powers are computed in another way at multiples of 32
CHOSEN = {m.name + label: chosen for m in MEMBERS for label, chosen in m.digests.items()}
DTYPES = ["float32", "float64", "complex64", "complex128"]
SCHEDULE = join(
    [linear(0.001, 0.1, 9), cosine_decay(0.1, 40), exponential_decay(0.01, 0.9, 3)], [9, 45]
)
EXTRAS = {
    "plain": {"lr": 0.01},
    "average, clipped, scheduled": {"lr": SCHEDULE, "ema_decay": 0.99, "max_grad_norm": 1.0},
}
CASES = [f"{m}; {dtype}; {extra}" for m in CHOSEN for dtype in DTYPES for extra in EXTRAS]
#: A parameter's dtype, and how its state is stored.
STORED = ["bfloat16", "float16", "float32 bfloat16", "float32 int8", "complex64 bfloat16",
          "complex64 int8", "bfloat16 bfloat16", "bfloat16 int8", "float16 int8"]  # fmt: skip
CASES += [
    f"{m}; {stored}; {extra}"
    for m in CHOSEN
    for stored in STORED
    for extra in EXTRAS
    if has_codes(CHOSEN[m]) or " " not in stored
]
FILES = [f"{m}; file" for m in CHOSEN]  # safetensors orders its metadata at random


def numbers(shape, dtype, seed):
    """Numbers over many decades, subnormal ones among them, made of integers alone."""
    dtype = np.dtype(dtype)
    n = int(np.prod(shape)) * (2 if dtype.kind == "c" else 1)
    mixed = (np.arange(n, dtype=np.uint64) + np.uint64(1000 * seed)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
    x = np.ldexp(x, -(mixed % np.uint64(140)).astype(np.int32) * (mixed % np.uint64(5) == 0))
    if dtype.name == "bfloat16":
        x = bfloat16_params(x.astype(np.float32))
        return x.view(dtype).reshape(shape)
    return x.astype(np.empty(0, dtype).real.dtype).view(dtype).reshape(shape)


def trained(member, stored, extra, steps=STEPS):
    """An optimizer after some steps, and its parameters."""
    dtype, _, state_dtype = stored.partition(" ")
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    shapes = {"w": (7, 43), "b": (7,), "s": (), "empty": (0, 3)}
    storage = {}
    if state_dtype:
        shapes["w"], storage = (61, 71), {"state_dtype": state_dtype, "seed": 6}
    params = {k: numbers(shape, dtype, i) for i, (k, shape) in enumerate(shapes.items())}
    make = getattr(fastadam, member.partition(",")[0])
    options = {**CHOSEN[member], **EXTRAS[extra], **storage}
    if BY_NAME[make.__name__].averages_itself:
        options.pop("ema_decay", None)
    opt = make(params, **options)
    for step in range(steps):
        given = np.float32 if np.dtype(dtype).itemsize == 2 and step % 4 == 2 else dtype
        grads = {
            k: numbers(shape, given, 10 * step + 5 + i)
            for i, (k, shape) in enumerate(shapes.items())
        }
        if step % 3 == 1:
            grads["b"] = None
        opt.step(grads, loss_scale=1.0 if step % 2 else 3.0)
    return opt, params


def digest(*parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()


def digest_of_case(case):
    opt, params = trained(*case.split("; "))
    found = [code_bits(array) for array in params.values()]
    for entry in opt.state_dict()["state"].values():
        found += [
            code_bits(value) for _, value in sorted(entry.items()) if isinstance(value, np.ndarray)
        ]
        found += [
            f"{name}={value!r}".encode()
            for name, value in sorted(entry.items())
            if not isinstance(value, np.ndarray)
        ]
    return digest(*found, repr(opt.grad_norm).encode() if "clipped" in case else b"")


def digest_of_file(case, folder):
    opt, _ = trained(case.partition(";")[0], "float32", "plain", steps=3)
    path = folder / "x.fastadam"
    opt.save(path, params=True, rng=[np.random.Generator(np.random.Philox(1))])
    return digest(path.read_bytes())


@pytest.fixture(scope="module")
def table():
    return json.loads(TABLE.read_text())


def test_the_table_is_complete(table):
    assert [*table] == CASES + FILES
    assert len({*table.values()}) == len(table)


@pytest.mark.parametrize("case", CASES)
def test_results(case, table):
    assert digest_of_case(case) == table[case]


@pytest.mark.parametrize("case", FILES)
def test_files(case, table, tmp_path, monkeypatch):
    monkeypatch.setattr(_checkpoint, "__version__", "0")
    assert digest_of_file(case, tmp_path) == table[case]


if __name__ == "__main__":
    import tempfile

    _checkpoint.__version__ = "0"
    with tempfile.TemporaryDirectory() as folder:
        made = {case: digest_of_case(case) for case in CASES}
        made |= {case: digest_of_file(case, Path(folder)) for case in FILES}
    TABLE.write_text(json.dumps(made, indent=0) + "\n")
