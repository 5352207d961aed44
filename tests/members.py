"""The members of the family, for all tests that run over them.

It is from the members' documentation and not from the code under test: oracles use it, too.
"""

import itertools
from typing import Any, NamedTuple

Options = dict[str, Any]


class Member(NamedTuple):
    """What tests must know of a member of the family.

    Attributes
    ----------
    name : str
        Of its class in fastadam, and in fastadam.torch.
    combinations : list of dict
        Values of its options, each with each: for tests that are quick. torch.optim's class, if
        there is one, has all of these options.
    variants : list of dict
        Options that between them reach each branch of the rule: for tests that are slower. The
        first is for tests that try only one: it keeps state, and torch.optim's class, if there is
        one, has all of its options.
    digests : dict of str: dict
        The same for digests.json, by what follows the name there. What one of these gives is
        written down, so they are never changed.
    states : dict of str: str or None
        The names of its arrays of state, in the order in which they are numbered; and beside which
        other one an array is stored in 8 bits, if beside any.
    torch : bool
        Whether torch.optim has a class of that name.
    exact : frozenset of str
        The arrays of state that no `state_dtype` changes.
    takes_rows : bool
        Whether a `RowGrad` may leave rows out.
    averages_itself : bool
        Whether `averaged_params` is a part of the member, which then has no `ema_decay`.
    """

    name: str
    combinations: list[Options]
    variants: list[Options]
    digests: dict[str, Options]
    states: dict[str, str | None]
    torch: bool
    exact: frozenset[str] = frozenset()
    takes_rows: bool = True
    averages_itself: bool = False


def each_with_each(**values: tuple[Any, ...]) -> list[Options]:
    """All combinations of the values."""
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


COMMON = {"weight_decay": (0.0, 0.1), "maximize": (False, True)}
BETAS = {"betas": ((0.9, 0.999), (0.5, 0.75)), **COMMON}
DECOUPLED = {"decoupled_weight_decay": (False, True), **BETAS}
DECAY = {"weight_decay": 0.1, "decoupled_weight_decay": True}
MOMENTS = {"exp_avg": "exp_avg_sq", "exp_avg_sq": None}

MEMBERS = [
    Member(
        "Adam",
        combinations=each_with_each(amsgrad=(False, True), **BETAS),
        variants=[
            {"amsgrad": True, "weight_decay": 0.1},
            {"epsilon_hat": True, "maximize": True},
            {},
        ],
        digests={
            "": {},
            ", amsgrad": {"amsgrad": True, "maximize": True},
            ", hat": {"epsilon_hat": True, "weight_decay": 0.1},
        },
        states={**MOMENTS, "max_exp_avg_sq": None},
        torch=True,
    ),
    Member(
        "AdamW",
        combinations=each_with_each(amsgrad=(False, True), **BETAS),
        variants=[
            {"betas": (0.5, 0.75), "weight_decay": 0.1, "maximize": True},
            {"amsgrad": True},
        ],
        digests={"": {"betas": (0.95, 0.9999)}},
        states={**MOMENTS, "max_exp_avg_sq": None},
        torch=True,
    ),
    Member(
        "NAdam",
        combinations=each_with_each(momentum_decay=(4e-3, 0.1), **DECOUPLED),
        variants=[{}],
        digests={"": {}, ", decoupled": {"momentum_decay": 0.1, **DECAY}},
        states=MOMENTS,
        torch=True,
    ),
    Member(
        "RAdam",
        combinations=each_with_each(**DECOUPLED),
        variants=[{"betas": (0.8, 0.9), **DECAY}],
        digests={"": {"betas": (0.8, 0.99)}, ", decoupled": DECAY},
        states=MOMENTS,
        torch=True,
    ),
    Member(
        "Adamax",
        combinations=each_with_each(**BETAS),
        variants=[{}],
        digests={"": {"weight_decay": 0.1}},
        states={"exp_avg": "exp_inf", "exp_inf": None},
        torch=True,
    ),
    Member(
        "RMSprop",
        combinations=each_with_each(
            alpha=(0.99, 0.5), momentum=(0.0, 0.9), centered=(False, True), **COMMON
        ),
        variants=[
            {"momentum": 0.9, "alpha": 0.5},
            {"momentum": 0.9, "centered": True},
            {},
        ],
        digests={
            "": {"weight_decay": 0.1},
            ", centered": {"centered": True, "momentum": 0.9, "alpha": 0.9},
        },
        states={"square_avg": None, "momentum_buffer": None, "grad_avg": None},
        torch=True,
    ),
    Member(
        "SGD",
        combinations=[
            *each_with_each(momentum=(0.0, 0.9), dampening=(0.0, 0.5), **COMMON),
            *each_with_each(momentum=(0.9,), nesterov=(True,), **COMMON),
        ],
        variants=[
            {"momentum": 0.9, "dampening": 0.5},
            {"momentum": 0.9, "nesterov": True},
            {},
        ],
        digests={
            "": {"momentum": 0.9, "dampening": 0.1},
            ", nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        },
        states={"momentum_buffer": None},
        torch=True,
    ),
    Member(
        "ADOPT",
        combinations=each_with_each(clip=(0.25, None), **DECOUPLED),
        variants=[{"betas": (0.5, 0.75), "weight_decay": 0.1}, {"clip": None, **DECAY}],
        digests={"": {"clip": 0.3}, ", unclipped": {"clip": None, "eps": 0.1, **DECAY}},
        states={"exp_avg": None, "exp_avg_sq": None},
        torch=False,
    ),
    Member(
        "AdamWScheduleFree",
        combinations=each_with_each(
            warmup_steps=(0, 4), r=(0.0, 1.3), weight_lr_power=(2.0, 0.3), **COMMON
        ),
        variants=[{"warmup_steps": 3, "r": 0.7, "weight_decay": 0.1}, {}],
        digests={"": {}, ", warmup": {"warmup_steps": 12.5, "r": 2.2, "weight_decay": 0.1}},
        states={"z": None, "exp_avg_sq": None},
        torch=False,
        exact=frozenset({"z"}),
        takes_rows=False,
        averages_itself=True,
    ),
    Member(
        "Lion",
        combinations=each_with_each(**BETAS),
        variants=[{"weight_decay": 0.1}],
        digests={"": {"weight_decay": 0.1}},
        states={"exp_avg": None},
        torch=False,
    ),
    Member(
        "AdEMAMix",
        combinations=each_with_each(
            betas=((0.9, 0.999, 0.9999), (0.5, 0.75, 0.8)),
            t_alpha=(None, 3),
            t_beta3=(None, 4.5),
            **COMMON,
        ),
        variants=[
            {"betas": (0.5, 0.75, 0.8), "t_alpha": 4, "t_beta3": 3, "weight_decay": 0.1},
            {"alpha": 0.5},
        ],
        digests={
            "": {},
            ", schedules": {
                "betas": (0.9, 0.99, 0.9995),
                "t_alpha": 30,
                "t_beta3": 40.5,
                "weight_decay": 0.1,
            },
        },
        states={"exp_avg_fast": "exp_avg_sq", "exp_avg_slow": "exp_avg_sq", "exp_avg_sq": None},
        torch=False,
    ),
]
BY_NAME = {member.name: member for member in MEMBERS}
NAMES = [member.name for member in MEMBERS]
OF_TORCH = [member.name for member in MEMBERS if member.torch]
#: Of each, the variant for tests that try only one.
FIRST = {member.name: member.variants[0] for member in MEMBERS}
VARIANTS = [(member.name, chosen) for member in MEMBERS for chosen in member.variants]


def averaging(name: str, ema_decay: float | None = 0.5) -> Options:
    """The options with which a member averages its parameters."""
    return {} if BY_NAME[name].averages_itself else {"ema_decay": ema_decay}


def has_codes(chosen: Options) -> bool:
    """Whether an optimizer with these options may store its state in fewer bits."""
    return not chosen.get("centered")
