"""What a forked child is told about an optimizer that another thread was using."""

HELD = (
    "this process was forked while another thread was stepping the optimizer, "
    "so its copy of the state is torn; make it anew from a state dict"
)
