"""What rounding to nearest does to a second moment in bfloat16, and rounding at random does not.

    pip install '.[torch,examples]' && python bench/second_moment.py

For 1,000 steps the gradients of 4,096 numbers are normally distributed, and then 30 times as small.
Prints the mean second moment a few times, and draws it to docs/second-moment.png: with float32
state, with fastadam's in fewer bits, and of PyTorch's fused AdamW with bfloat16 parameters, whose
moments are rounded to the nearest bfloat16. DeepSpeed's CPUAdam is beside it where it is installed.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch

import fastadam

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ELEMENTS, BEFORE, AFTER, DROP = 4096, 1000, 3000, 30
EVERY = 10  # steps between two points
PICTURE = Path(__file__).parents[1] / "docs" / "second-moment.png"


def ours(state_dtype):
    param = np.zeros(ELEMENTS, np.float32)
    opt = fastadam.Adam(param, state_dtype=state_dtype)

    def step(grad):
        opt.step(grad)
        return opt.state_dict(decoded=True)["state"][0]["exp_avg_sq"].mean(dtype=np.float64)

    return step


def theirs(make):
    param = torch.nn.Parameter(torch.zeros(ELEMENTS, dtype=torch.bfloat16))
    opt = make(param)

    def step(grad):
        param.grad = torch.from_numpy(grad).bfloat16()
        opt.step()
        return opt.state[param]["exp_avg_sq"].double().mean().item()

    return step


def deepspeed(param):
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam([param], fp32_optimizer_states=False)


MAKERS = {
    "float32": lambda: ours(None),
    "fastadam, bfloat16": lambda: ours("bfloat16"),
    "fastadam, 8 bits": lambda: ours("int8"),
    "PyTorch fused, bfloat16": lambda: theirs(lambda p: torch.optim.AdamW([p], fused=True)),
    "DeepSpeed CPUAdam, bfloat16": lambda: theirs(deepspeed),
}


def curves():
    """The mean second moment after every so many steps, by name."""
    steps = {}
    for name, make in MAKERS.items():
        try:
            steps[name] = make()
        except ImportError as error:
            print(f"without {name}: {error}")
    means = {name: [] for name in steps}
    rng = np.random.default_rng(0)
    for t in range(1, BEFORE + AFTER + 1):
        grad = rng.standard_normal(ELEMENTS, np.float32)
        if t > BEFORE:
            grad /= DROP
        for name, step in steps.items():
            mean = step(grad)
            if t % EVERY == 0:
                means[name].append(mean)
    return means


def draw(means):
    figure, panel = plt.subplots(figsize=(8, 4.5), layout="constrained")
    at = np.arange(EVERY, BEFORE + AFTER + 1, EVERY)
    for (name, values), style in zip(means.items(), ("-", "--", "-.", "-", ":"), strict=False):
        panel.semilogy(at, values, style, label=name, linewidth=2)
    panel.axvline(BEFORE, color="gray", linewidth=1)
    panel.set(
        xlabel="step",
        ylabel="mean of exp_avg_sq",
        title=f"Gradients become {DROP} times as small after {BEFORE:,} steps",
    )
    panel.legend()
    figure.savefig(PICTURE, dpi=110)


def main():
    means = curves()
    shown = [BEFORE, BEFORE + 1400, BEFORE + AFTER]
    print(f"{'mean of exp_avg_sq after':28}" + "".join(f"{t:>12,}" for t in shown) + " steps")
    for name, values in means.items():
        print(f"{name:28}" + "".join(f"{values[t // EVERY - 1]:12.6f}" for t in shown))
    draw(means)
    print(f"picture: {PICTURE}")


if __name__ == "__main__":
    main()
