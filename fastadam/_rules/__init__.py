"""The rules in NumPy: the specification, and what runs without the extension.

Each file is that of its name in csrc/rules/, line for line: the same names, the same
operations in the same order, each rounded once to the dtype. RULES is the list of
csrc/rules.h.
"""

from fastadam._rules.adam import ADAM
from fastadam._rules.adamax import ADAMAX
from fastadam._rules.ademamix import ADEMAMIX
from fastadam._rules.adopt import ADOPT
from fastadam._rules.lion import LION
from fastadam._rules.nadam import NADAM
from fastadam._rules.radam import RADAM
from fastadam._rules.rmsprop import RMSPROP
from fastadam._rules.rule import Block, Number, Rule, Scalars, step_blocks
from fastadam._rules.schedule_free import SCHEDULE_FREE
from fastadam._rules.sgd import SGD

RULES = (ADAM, NADAM, RADAM, ADAMAX, RMSPROP, SGD, LION, ADOPT, ADEMAMIX, SCHEDULE_FREE)

__all__ = [
    "ADAM",
    "ADAMAX",
    "ADEMAMIX",
    "ADOPT",
    "LION",
    "NADAM",
    "RADAM",
    "RMSPROP",
    "RULES",
    "SCHEDULE_FREE",
    "SGD",
    "Block",
    "Number",
    "Rule",
    "Scalars",
    "step_blocks",
]
