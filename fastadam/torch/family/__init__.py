"""The optimizers, each with its options and documentation, as in fastadam/family/."""
