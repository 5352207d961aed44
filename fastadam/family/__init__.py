"""The optimizers, each with its options and documentation; _rules/ has what they compute."""

from fastadam.family.adam import Adam, AdamW
from fastadam.family.adamax import Adamax
from fastadam.family.ademamix import AdEMAMix
from fastadam.family.adopt import ADOPT
from fastadam.family.lion import Lion
from fastadam.family.nadam import NAdam
from fastadam.family.radam import RAdam
from fastadam.family.rmsprop import RMSprop
from fastadam.family.schedule_free import AdamWScheduleFree
from fastadam.family.sgd import SGD

__all__ = [
    "ADOPT",
    "SGD",
    "AdEMAMix",
    "Adam",
    "AdamW",
    "AdamWScheduleFree",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
]
