/* The hyper-parameters, each a double; flags are 0 or 1, and a `clip` that is None is -1.
   fastadam/_hyper.py checks what a user sets and calls them by the same names. */
#ifndef FASTADAM_HYPER_H
#define FASTADAM_HYPER_H

#define FA_HYPER(X) \
    X(lr) \
    X(beta1) \
    X(beta2) \
    X(beta3) \
    X(eps) \
    X(weight_decay) \
    X(decoupled_weight_decay) \
    X(alpha) \
    X(momentum) \
    X(dampening) \
    X(psi) \
    X(t_alpha) \
    X(t_beta3) \
    X(half_life_ratio) \
    X(clip) \
    X(warmup_steps) \
    X(r) \
    X(weight_lr_power) \
    X(ema_decay) \
    X(seed) \
    X(amsgrad) \
    X(maximize) \
    X(epsilon_hat) \
    X(nesterov) \
    X(centered)

#endif
