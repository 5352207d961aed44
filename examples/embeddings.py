"""Word vectors from Python's own documentation, with gradients of a few rows.

    pip install '.[examples]' && python examples/embeddings.py

Skip-gram with negative sampling (Mikolov et al., arXiv:1310.4546) on the language reference
in pydoc_data and the docstrings of the standard library. A batch has gradients for a few
hundred of the table's rows; fastadam.RowGrad hands over these alone, and only they move. Prints
neighbours of some words and what a step costs with RowGrad and with the same gradient as an
array that has all rows; draws the most frequent words to embeddings.png.
"""

import argparse
import re
import sysconfig
import time
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib
import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from threadpoolctl import threadpool_limits

import fastadam

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DIMENSION = 64
WINDOW = 5  # how far apart two words may stand that are near each other
BATCH, NEGATIVES = 512, 64  # pairs of words, and words for all of them that are not near
NEGATIVE_WEIGHT = 5.0  # all the negatives against one pair
EPOCHS, LR = 4, 5e-3
SHOWN = ("tuple", "float", "file", "thread", "encoding", "loop", "dictionary", "socket", "minute")


def read_words():
    library = Path(sysconfig.get_path("stdlib"))
    sources = [*library.glob("*.py"), *library.glob("[a-z]*/*.py")]
    texts = list(topics.values())
    for path in sorted(sources):
        if path.parent.name not in ("test", "idlelib", "site-packages", "dist-packages"):
            texts += re.findall(r'"""(.*?)"""', path.read_text("utf-8"), re.DOTALL)
    return re.findall(r"[a-z]{2,}", " ".join(texts).lower())


def index_words(words, least=3):
    """Words that are there often enough, most frequent first; their counts; the text as indices."""
    counts = Counter(words)
    vocabulary = [word for word, count in counts.most_common() if count >= least]
    index = {word: i for i, word in enumerate(vocabulary)}
    text = np.array([index[word] for word in words if word in index])
    return vocabulary, np.bincount(text), text


def near_pairs(text, frequencies, rng):
    """All pairs of words in a window, in random order; frequent words are thinned out."""
    keep = np.sqrt(1e-3 / frequencies)
    text = text[rng.random(len(text)) < keep[text]]
    pairs = [np.stack([text[:-d], text[d:]]) for d in range(1, WINDOW + 1)]
    pairs = np.concatenate([*pairs, *(pair[::-1] for pair in pairs)], axis=1)
    return pairs[:, rng.permutation(pairs.shape[1])]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def row_gradients(tables, words, near, far):
    """Gradients of both tables: those of words, and those of the words near or far.

    Of each pair's -log sigmoid(word . near), plus NEGATIVE_WEIGHT times the mean of
    -log sigmoid(-word . far) over all far.
    """
    u, v, w = tables[0][words], tables[1][near], tables[1][far]
    pull = sigmoid((u * v).sum(axis=1, keepdims=True)) - 1
    push = sigmoid(u @ w.T) * (NEGATIVE_WEIGHT / len(far))
    return [
        fastadam.RowGrad(words, pull * v + push @ w),
        fastadam.RowGrad(np.concatenate([near, far]), np.concatenate([pull * u, push.T @ u])),
    ]


def batches(text, counts, rng):
    """Words, words near them, and words drawn at random, epoch after epoch."""
    negative = np.cumsum(counts**0.75)
    for epoch in range(EPOCHS):
        pairs = near_pairs(text, counts / counts.sum(), rng)
        print(f"epoch {epoch + 1} of {EPOCHS}: {pairs.shape[1]:,} pairs of words", flush=True)
        for start in range(0, pairs.shape[1], BATCH):
            words, near = pairs[:, start : start + BATCH]
            yield words, near, np.searchsorted(negative, negative[-1] * rng.random(NEGATIVES))


def train(text, counts):
    """The words' vectors, of length 1, and the last batch's gradient of them."""
    rng = np.random.default_rng(0)
    words = rng.standard_normal((len(counts), DIMENSION), np.float32) / 16
    tables = [words, np.zeros_like(words)]
    optimizer = fastadam.Adam(tables, lr=LR)
    for batch in batches(text, counts, rng):
        gradients = row_gradients(tables, *batch)
        optimizer.step(gradients)
    return words / np.linalg.norm(words, axis=1, keepdims=True), gradients[0]


def neighbours(vectors, i, among=2000, count=6):
    """Of the most frequent words, those with the largest cosine to word i."""
    order = np.argsort(vectors[:among] @ vectors[i])[::-1]
    return order[order != i][:count]


def microseconds_a_step(optimizer, gradient, repeats=51):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        optimizer.step(gradient)
        times.append(time.perf_counter() - start)
    return 1e6 * np.median(times)


def compare_steps(gradient, sizes):
    """Print what a step of tables of these sizes costs, with the same gradient in both forms."""
    ways = f"a RowGrad of {len(np.unique(gradient.rows))} rows", "an array of all rows"
    print("Time of a step with the last batch's gradient, handed over as")
    print(f"{'':4}{'rows of the table':17}", *(f"{way:>24}" for way in ways))
    for size in sizes:
        table = np.zeros((size, DIMENSION), np.float32)
        dense = np.zeros_like(table)
        np.add.at(dense, gradient.rows, gradient.values)
        optimizer = fastadam.Adam(table)
        of_rows = microseconds_a_step(optimizer, gradient)
        of_all = microseconds_a_step(optimizer, dense)
        print(f"    {size:17,} {of_rows:21,.0f} us {of_all:21,.0f} us")


def draw(vocabulary, vectors, path, count=150):
    """The most frequent words that say something, along their two main axes."""
    chosen = [i for i, word in enumerate(vocabulary) if word not in ENGLISH_STOP_WORDS][:count]
    centred = vectors[chosen] - vectors[chosen].mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    places = u[:, :2] * s[:2]
    figure, axes = plt.subplots(figsize=(11, 8), layout="constrained")
    axes.scatter(*places.T, s=6, color="C1")
    axes.set(
        xlabel="first principal axis", ylabel="second principal axis",
        title="Frequent words of Python's documentation (labels where there is room)",
    )  # fmt: skip
    labels = [
        axes.annotate(vocabulary[i], place, (0, 2), textcoords="offset points", ha="center")
        for i, place in zip(chosen, places, strict=True)
    ]
    remove_overlapping(figure, labels)
    figure.savefig(path, dpi=120)


def remove_overlapping(figure, labels):
    """Keep the first of labels that lie over each other."""
    figure.draw_without_rendering()
    taken = []
    for label in labels:
        box = label.get_window_extent()
        if box.count_overlaps(taken):
            label.remove()
        else:
            taken.append(box)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="embeddings.png", help="where to draw the words")
    path = parser.parse_args().plot

    threadpool_limits(1, user_api="blas")  # matrix products this small are faster without
    vocabulary, counts, text = index_words(read_words())
    print(f"{len(text):,} words, {len(vocabulary):,} different ones")
    start = time.perf_counter()
    vectors, gradient = train(text, counts)
    print(f"trained in {time.perf_counter() - start:.1f} s; nearest neighbours:")
    for word in SHOWN:
        near = neighbours(vectors, vocabulary.index(word))
        print(f"    {word:10} {', '.join(vocabulary[i] for i in near)}")
    compare_steps(gradient, (len(vocabulary), 20_000, 100_000))
    draw(vocabulary, vectors, path)
    print(f"words: {path}")


if __name__ == "__main__":
    main()
