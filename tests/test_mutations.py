"""Changed checkpoint files are loaded as a whole or refused; tests/fuzz tries more of them."""

import random
import tracemalloc

import mutations
import pytest


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_seeds_are_loaded(tmp_path, traced):
    pytest.importorskip("safetensors")
    for seed in mutations.seeds(tmp_path):
        assert mutations.check(seed, tmp_path) == ""


def test_mutations(tmp_path, traced):
    pytest.importorskip("safetensors")
    draw = random.Random(13)

    def changed(part):
        part = bytearray(part)
        for _ in range(draw.randrange(1, 4)):
            part[draw.randrange(len(part))] = draw.randrange(256)
        return bytes(part)

    seeds, messages = mutations.seeds(tmp_path), []
    for _ in range(100):
        data = draw.choice(seeds)
        for _ in range(draw.randrange(1, 4)):
            data = mutations.mutated(data, draw, changed)
        messages.append(mutations.check(data, tmp_path))
    assert messages.count("") > 5
    assert len(set(messages)) > 30
