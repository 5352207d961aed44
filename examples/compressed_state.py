"""A small transformer trained with the optimizer's state in fewer bits.

    pip install '.[torch,examples]' && python examples/compressed_state.py

The network predicts the next character of Python's own help texts, which come with Python. It is
trained with AdamW whose moments are float32, bfloat16 or 8-bit numbers, and once more with the
network itself in bfloat16, each from five seeds. Prints the loss on text that was not trained on
(mean and spread over the seeds); and for one large array what the optimizer keeps and how long a
step takes. Draws the loss curves to compressed_state.png.
"""

import argparse
import time
from pydoc_data.topics import topics

import matplotlib
import numpy as np
import torch
from torch import nn

from fastadam.torch import AdamW

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEEDS = range(5)
STEPS, EVERY = 400, 20
BATCH, LENGTH, WIDTH = 16, 64, 96
LARGE = 2**25  # numbers in the array whose steps are timed

CONFIGURATIONS = {  # how moments are stored, and the network's dtype
    "float32": (None, torch.float32),
    "bfloat16 state": ("bfloat16", torch.float32),
    "8-bit state": ("int8", torch.float32),
    "bfloat16 parameters and state": ("bfloat16", torch.bfloat16),
}


class Transformer(nn.Module):
    def __init__(self, n_characters):
        super().__init__()
        self.characters = nn.Embedding(n_characters, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH,
            nhead=4,
            dim_feedforward=4 * WIDTH,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, n_characters)

    def forward(self, text):
        x = self.characters(text) + self.places(torch.arange(text.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1], dtype=x.dtype)
        return self.out(self.layers(x, mask, is_causal=True))


def load():
    """The text as numbers, one for each kind of character; how many kinds there are."""
    text = "\n".join(topics[name] for name in sorted(topics))
    kinds, numbers = np.unique(np.array(list(text)), return_inverse=True)
    return torch.from_numpy(numbers), len(kinds)


def loss_of(model, text, starts):
    pieces = torch.stack([text[start : start + LENGTH + 1] for start in starts])
    logits = model(pieces[:, :-1]).float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())


def train(state_dtype, dtype, data, n_characters, seed):
    """Train from scratch; the loss on held-out text every so many steps."""
    torch.manual_seed(seed)
    split = len(data) * 9 // 10
    held_out = torch.linspace(split, len(data) - LENGTH - 1, 64).long().tolist()
    model = Transformer(n_characters).to(dtype)
    optimizer = AdamW(model.parameters(), lr=2e-3, state_dtype=state_dtype, seed=seed)
    losses = []
    for step in range(1, STEPS + 1):
        starts = torch.randint(0, split - LENGTH - 1, (BATCH,)).tolist()
        optimizer.zero_grad()
        loss_of(model, data, starts).backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                losses.append(loss_of(model, data, held_out).item())
    return losses


def cost(state_dtype, dtype):
    """Bytes of state a parameter, and milliseconds of a step, of one large array."""
    param = nn.Parameter(torch.ones(LARGE, dtype=dtype))
    param.grad = torch.full_like(param, 1e-3)
    optimizer = AdamW([param], state_dtype=state_dtype)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - start)
    tensors = (value for value in optimizer.state[param].values() if value.ndim)
    n_bytes = sum(tensor.nbytes for tensor in tensors)
    return n_bytes / LARGE, 1e3 * sorted(times)[len(times) // 2]


def draw(curves, costs, path):
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 4.5), width_ratios=(2, 1, 1), layout="constrained"
    )
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    names = list(curves)
    colors = plt.colormaps["tab10"].colors
    for name, color, style in zip(names, colors, ("-", "--", "-.", ":"), strict=False):
        mean, spread = curves[name].mean(axis=0), curves[name].std(axis=0)
        left.plot(steps, mean, style, color=color, label=name)
        left.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.15)
    left.set(xlabel="step", ylabel="loss on held-out text", title="Mean and spread of five seeds")
    left.legend()
    for panel, column, label in (
        (middle, 0, "bytes of state a parameter"),
        (right, 1, "ms a step of 33 million numbers"),
    ):
        values = [costs[name][column] for name in names]
        bars = panel.barh(names[::-1], values[::-1], color=colors[: len(names)][::-1])
        panel.bar_label(bars, fmt="%.1f", padding=3)
        panel.set(xlabel=label, xlim=(0, 1.2 * max(values)))
        panel.tick_params(axis="y", labelsize="small")
    right.set_yticklabels([])
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="compressed_state.png", help="where to draw the curves")
    path = parser.parse_args().plot

    data, n_characters = load()
    curves, costs = {}, {}
    print(f"{'':30} {'loss, mean':>10} {'spread':>7} {'bytes of state':>15} {'ms a step':>10}")
    for name, (state_dtype, dtype) in CONFIGURATIONS.items():
        costs[name] = cost(state_dtype, dtype)
        curves[name] = np.array(
            [train(state_dtype, dtype, data, n_characters, seed) for seed in SEEDS]
        )
        final = curves[name][:, -1]
        print(
            f"{name:30} {final.mean():10.4f} {final.std(ddof=1):7.4f} "
            f"{costs[name][0]:15.2f} {costs[name][1]:10.1f}"
        )
    draw(curves, costs, path)
    print(f"curves: {path}")


if __name__ == "__main__":
    main()
