"""Checkpoint files that are changed and then mended, so that changes get past the checksums.

An input is a byte that says how it is loaded (`Way`) and then the file. `check` loads it, and
`mutated` makes another one of it. tests/test_mutations.py tries some hundred of them, and
tests/fuzz/checkpoint.py as many as one likes.
"""

import copy
import json
import math
import operator
import os
import struct
import tracemalloc
import zlib
from typing import NamedTuple

import numpy as np
from reference import bits

import fastadam
from fastadam import schedules

MOST_DATA = 1 << 14  # bytes of arrays in a file; what is mended does not grow beyond
#: What takes the place of a value in a header.
VALUES = [
    None, True, False, 0, 1, -1, 2, 0.5, 1.0, -0.0, 1e308, 1e-320, math.nan, math.inf, -math.inf,
    2**31, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400, "", "0", "<f4", "<f8",
    "<c8", "<c16", "<function>", "param", "step", "exp_avg", "lr", "params", "__metadata__",
    "\ud800", "x" * 300, [], {}, [[]], [0], [0, 2**62, 2**62], [1] * 65, {"lr": 0}, [{}],
]  # fmt: skip


class Run:
    """An optimizer with parameters of several dtypes, and what a load may change."""

    def __init__(self, model):
        self.rng = np.random.default_rng(5)
        self.plateau = schedules.ReduceOnPlateau(0.25, patience=1)
        w, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2)
        z, none = np.array([1 + 2j, 3], np.complex64)[::-1], np.zeros((0, 2))
        self.params = [w, b, z, none][: 1 if model == 2 else 4]
        if model == 0:
            nest = {"w": w, "b": [b, {"z": z}], 0: none}
            lr = schedules.join([schedules.constant(0.1), self.plateau], [1])
            self.opt = fastadam.AdamW(nest, lr=lr, amsgrad=True)
            self.grads = {"w": w * 2, "b": [b * 3, {"z": z * 4}], 0: none}
        elif model == 1:
            groups = [{"params": [w, b], "name": "first"}, {"params": [z, none], "lr": 0.5}]
            self.opt = fastadam.NAdam(groups, lr=self.plateau, ema_decay=0.5, max_grad_norm=9.0)
            self.grads = [[w * 2, b * 3], [z * 4, none]]
        else:
            self.opt = fastadam.SGD(w, lr=0.5, momentum=0.5, skip_nonfinite=True)
            self.grads = w * 2

    def seen(self):
        """All of that, to be compared."""
        saved = self.opt.state_dict()
        shown = [bits(array) for array in self.params]
        for entry in saved["state"].values():
            shown += [bits(v) if isinstance(v, np.ndarray) else repr(v) for v in entry.values()]
        groups = [{**group, "lr": repr(group["lr"])} for group in saved["param_groups"]]
        owned = [{**g, "lr": repr(g["lr"]), "params": 0} for g in self.opt.param_groups]
        numbers = self.opt.grad_norm, self.opt.finished_steps, self.opt.skipped_steps
        state = self.rng.bit_generator.state, self.plateau.state_dict()
        return [*shown, repr((list(saved["state"]), groups, owned, numbers, state))]


class Way(NamedTuple):
    """How an input's file is loaded, and by whom."""

    model: int
    suffix: str
    params: bool | None
    with_rng: bool

    @classmethod
    def of(cls, byte):
        suffix = ".safetensors" if byte & 4 else ".ckpt"
        return cls((byte & 3) % 3, suffix, (None, True, False, None)[byte >> 3 & 3], byte >> 5 & 1)


def seeds(folder):
    """Inputs from files as `save` writes them."""
    found = []
    for model in range(3):
        run = Run(model)
        run.opt.step(run.grads)
        run.plateau.update(1.0)
        run.plateau.update(2.0)
        for suffix in 0, 4:
            path = os.path.join(folder, "seed" + (".safetensors" if suffix else ".ckpt"))
            for params, rng in (False, []), (True, [run.rng]):
                run.opt.save(path, params=params, rng=rng)
                with open(path, "rb") as file:
                    found.append(
                        bytes([model | suffix | 8 * params | 32 * bool(rng)]) + file.read()
                    )
    return found


def check(data, folder, known={}):  # noqa: B006, made once
    """Load an input: it is taken as a whole, or refused in words with nothing changed.

    Returns the error's message, or "" if it was loaded.
    """
    way = Way.of(data[0])
    path = os.path.join(folder, "x" + way.suffix)
    with open(path, "wb") as file:
        file.write(data[1:])
    # An optimizer that refused files goes on, from input to input.
    run, before = known.pop(way.model, None) or (Run(way.model), Run(way.model).seen())
    error, peak = load(run, way, path)
    if peak > 500_000 + 100 * len(data):  # once in a while Python's table of names grows
        error, peak = load(run, way, path)
    assert peak <= 500_000 + 100 * len(data)
    if error is None:
        check_loaded(run, way, folder)
        return ""
    assert type(error) in (TypeError, ValueError, KeyError), repr(error)
    assert str(error.args[0]).startswith(f"{path}: "), repr(error)
    assert run.seen() == before, repr(error)
    known[way.model] = run, before
    return str(error.args[0]).removeprefix(f"{path}: ")


def load(run, way, path):
    """What it raises, and how many bytes it took meanwhile."""
    tracemalloc.reset_peak()
    start, _ = tracemalloc.get_traced_memory()
    error = None
    try:
        run.opt.load(path, params=way.params, rng=run.rng if way.with_rng else [])
    except (TypeError, ValueError, KeyError) as raised:
        error = raised
    return error, tracemalloc.get_traced_memory()[1] - start


def check_loaded(run, way, folder):
    """What was loaded can be saved and loaded again, and stepped."""
    path = os.path.join(folder, "again" + way.suffix)
    seen = run.seen()
    run.opt.save(path, params=True, rng=run.rng)
    other = Run(way.model)
    other.opt.load(path, params=True, rng=other.rng)
    assert other.seen() == seen
    try:
        run.opt.step(run.grads)
    except ValueError:  # a learning rate of a schedule may have become infinite
        assert run.seen() == seen


def mutated(data, random, changed_bytes):
    """Another input. `changed_bytes` makes other bytes of some."""
    way = Way.of(data[0])
    parts = (split_safetensors if way.suffix == ".safetensors" else split)(data[1:])
    draw = random.random()
    if parts is None or draw < 0.05:
        return changed_bytes(data)
    if draw < 0.08:
        return bytes([random.randrange(64)]) + data[1:]
    content, values = parts
    for _ in range(1 + int(random.expovariate(1.0))):
        draw = random.random()
        if draw < 0.8:
            change(content, random)
        elif values:
            values = changed_bytes(values)
    text = None
    if random.random() < 0.15:
        text = changed_bytes(json.dumps(content["inner"]).encode())
    settled = random.random() < 0.9
    if way.suffix == ".safetensors":
        return data[:1] + join_safetensors(content, values, settled, text)
    return data[:1] + join(content, values, settled, text)


def split(data):
    """The JSON and the arrays' bytes of a file, if it has them."""
    try:
        n_text = struct.unpack_from("<I", data, 12)[0]
        return {"inner": json.loads(data[32 : 32 + n_text])}, data[32 + n_text : -4]
    except (struct.error, ValueError, RecursionError):
        return None


def join(content, values, settled, text):
    inner = content["inner"]
    if settled:
        values = settle(inner, values)
    text = json.dumps(inner).encode() if text is None else text
    text += b" " * (-(32 + len(text)) % 64)
    table = struct.pack("<I", zlib.crc32(values)) if values else b""
    length = 32 + len(text) + len(values) + len(table)
    prefix = b"fastadam" + struct.pack("<IIQI", 1, len(text), length, zlib.crc32(text))
    return prefix + struct.pack("<I", zlib.crc32(prefix)) + text + values + table


def split_safetensors(data):
    try:
        n_text = struct.unpack_from("<Q", data)[0]
        outer = json.loads(data[8 : 8 + n_text])
        inner = json.loads(outer["__metadata__"]["fastadam"])
        return {"inner": inner, "outer": outer}, data[8 + n_text :]
    except (struct.error, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def join_safetensors(content, values, settled, text):
    inner, outer = content.get("inner"), content.get("outer")
    if not isinstance(outer, dict) or not isinstance(outer.get("__metadata__"), dict):
        outer = {"__metadata__": {}}
    if settled:
        values = settle(inner, values)
        outer = {"__metadata__": outer["__metadata__"]}
        position = 0
        for entry in entries(inner):
            real, last = REAL[entry["dtype"]]
            size = n_bytes(entry)
            offsets = [position, position + size]
            outer[entry["name"]] = {"dtype": real, "shape": entry["shape"] + last}
            outer[entry["name"]]["data_offsets"] = offsets
            position += size
        values = values[:position]
    text = json.dumps(inner).encode() if text is None else text
    stored = []
    for entry in entries(inner):
        begin, end = offsets_of(outer.get(entry["name"]))
        piece = values[begin:end]
        stored.append(piece + bytes(-len(piece) % 64))
    values_sum = struct.pack("<I", zlib.crc32(b"".join(stored))) if any(stored) else b""
    decoded = text.decode(errors="replace")
    outer["__metadata__"].update(
        fastadam=decoded, crc32=f"{zlib.crc32(values_sum, zlib.crc32(decoded.encode())):08x}"
    )
    whole = json.dumps(outer).encode()
    return struct.pack("<Q", len(whole)) + whole + values


REAL = {"<f4": ("F32", []), "<f8": ("F64", []), "<c8": ("F32", [2]), "<c16": ("F64", [2])}


def offsets_of(entry):
    try:
        begin, end = map(operator.index, entry["data_offsets"])
    except (TypeError, ValueError, KeyError):
        return 0, 0
    return max(begin, 0), max(end, 0)


def entries(inner):
    """The entries of a JSON's arrays that are as they should be, as long as all are."""
    found = inner.get("arrays") if isinstance(inner, dict) else None
    for entry in found if isinstance(found, list) else ():
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and entry.get("dtype") in list(REAL)
            and isinstance(entry.get("shape"), list)
            and all(type(n) is int and n >= 0 for n in entry["shape"])
            and n_bytes(entry) <= MOST_DATA
        ):
            return
        yield entry


def n_bytes(entry):
    return math.prod(entry["shape"]) * int(entry["dtype"][2:])


def settle(inner, values):
    """Arrays' bytes of the length that the JSON asks for; its offsets are made right."""
    total = 0
    for entry in entries(inner):
        if total + n_bytes(entry) > MOST_DATA:
            break
        entry["offset"] = total
        total += n_bytes(entry) + -n_bytes(entry) % 64
    return values[:total] + bytes(total - len(values[:total]))


def change(content, random):
    """Change something anywhere in some JSON."""
    places = []  # (container, key)
    left = [content]
    while left:
        value = left.pop()
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            places.append((value, key))
            if isinstance(item, dict | list):
                left.append(item)
    container, key = random.choice(places[1:] or places)
    value = container[key]
    kind = random.randrange(8)
    if kind == 0:
        container[key] = copy.deepcopy(random.choice(VALUES))
    elif kind == 1:
        other, place = random.choice(places)
        container[key] = copy.deepcopy(other[place])
    elif kind == 2 and container is not content:
        del container[key]
    elif kind == 3 and isinstance(container, list):
        container.insert(random.randrange(len(container) + 1), copy.deepcopy(value))
    elif kind == 4 and isinstance(container, dict) and container is not content:
        names = [place for _, place in places if isinstance(place, str)]
        container[random.choice([*names, "", "x", "\ud800"])] = container.pop(key)
    elif kind == 5 and isinstance(value, str):
        at = random.randrange(len(value) + 1)
        container[key] = value[:at] + random.choice(["", "'", ".", "0", "é"]) + value[at + 1 :]
    elif kind == 6 and isinstance(value, list):
        random.shuffle(value)
    elif type(value) in (int, float) and abs(value) < 2**70:
        container[key] = random.choice([value + 1, value - 1, value * 2, -value, float(value)])
    elif isinstance(value, list | dict):
        container[key] = random.choice([[value], {"": value}, list(value)])
