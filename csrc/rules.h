/* The rules. Besides this file, scalars.c knows them. */
#ifndef FASTADAM_RULES_H
#define FASTADAM_RULES_H

#define FA_RULES(X) \
    X(adam, ADAM) \
    X(nadam, NADAM) \
    X(radam, RADAM) \
    X(adamax, ADAMAX) \
    X(rmsprop, RMSPROP) \
    X(sgd, SGD)

/* A rule's variants: kernel.c compiles a loop for each. */
enum {
    COUPLED = 1,  /* weight decay is added to the gradient */
    AVERAGED = 2, /* a moving average of the parameter is kept */
    /* and two that mean something else to each rule */
    AMSGRAD = 4,
    RECTIFIED = 4,
    MOMENTUM = 4,
    CENTERED = 8,
    NESTEROV = 8,
};

enum { STATE0 = 1, STATE1 = 2, STATE2 = 4 };

#ifdef FA_REAL

/* Each rule for one element: what is taken from the parameter, for its gradient g and
   the state s, which is changed. fastadam/_rules.py says the same in NumPy, in the same
   order.

   No operation may be fused or reordered (-ffp-contract=off): add, multiply, divide and
   square root are then correctly rounded on every CPU.

   `flags` is a constant where a rule is called. With a rule's name in capitals, _FLAGS are
   those that it takes, and _STATES the arrays of state that a variant has. */

/* The scalars, rounded to the dtype. */
typedef struct {
    real grad_factor, weight_decay, keep, ema_decay, ema_share;
    real b1, c1, b2, c2, step_size, grad_step, root, eps, momentum, fresh;
} constants;

/* Without this a dead gradient leaves subnormals in the state for ever, and they slow
   the loop 1.2 to 3.5 times (10 to 100 on some CPUs). */
FA_INLINE real normal(real x) { return fabs(x) < FA_SMALLEST_NORMAL ? 0 : x; }

FA_INLINE real maximum(real a, real b) { return a > b || a != a ? a : b; } /* a NaN wins */

/* Kingma & Ba, arXiv:1412.6980, algorithm 1; AMSGrad: Reddi, Kale & Kumar,
   arXiv:1904.09237, algorithm 2. */
#define ADAM_FLAGS (COUPLED | AVERAGED | AMSGRAD)
#define ADAM_STATES(flags) (STATE0 | STATE1 | ((flags) & AMSGRAD ? STATE2 : 0))
FA_INLINE real adam(constants k, real g, real s[], int flags)
{
    const real m = s[0] = normal(k.b1 * s[0] + k.c1 * g);
    real v = s[1] = normal(k.b2 * s[1] + k.c2 * (g * g));
    if (flags & AMSGRAD)
        v = s[2] = maximum(s[2], v);
    const real denom = sqrt(v) * k.root + k.eps;
    return (k.step_size * m) / denom;
}

/* Dozat, "Incorporating Nesterov Momentum into Adam", 2016. */
#define NADAM_FLAGS (COUPLED | AVERAGED)
#define NADAM_STATES(flags) (STATE0 | STATE1)
FA_INLINE real nadam(constants k, real g, real s[], int flags)
{
    const real m = s[0] = normal(k.b1 * s[0] + k.c1 * g);
    const real v = s[1] = normal(k.b2 * s[1] + k.c2 * (g * g));
    const real denom = sqrt(v) * k.root + k.eps;
    return (k.step_size * m + k.grad_step * g) / denom;
}

/* Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond",
   arXiv:1908.03265, algorithm 2. */
#define RADAM_FLAGS (COUPLED | AVERAGED | RECTIFIED)
#define RADAM_STATES(flags) (STATE0 | STATE1)
FA_INLINE real radam(constants k, real g, real s[], int flags)
{
    const real m = s[0] = normal(k.b1 * s[0] + k.c1 * g);
    const real v = s[1] = normal(k.b2 * s[1] + k.c2 * (g * g));
    if (flags & RECTIFIED)
        return (k.step_size * m) / (sqrt(v) + k.eps);
    return k.step_size * m;
}

/* Kingma & Ba, algorithm 2. */
#define ADAMAX_FLAGS (COUPLED | AVERAGED)
#define ADAMAX_STATES(flags) (STATE0 | STATE1)
FA_INLINE real adamax(constants k, real g, real s[], int flags)
{
    const real m = s[0] = normal(k.b1 * s[0] + k.c1 * g);
    const real u = s[1] = maximum(k.b2 * s[1], (real)fabs(g) + k.eps);
    return (k.step_size * m) / u;
}

/* Tieleman & Hinton, lecture 6.5 of "Neural Networks for Machine Learning", 2012;
   centered: Graves, arXiv:1308.0850, equations 38-45. */
#define RMSPROP_FLAGS (COUPLED | AVERAGED | MOMENTUM | CENTERED)
#define RMSPROP_STATES(flags) \
    (STATE0 | ((flags) & MOMENTUM ? STATE1 : 0) | ((flags) & CENTERED ? STATE2 : 0))
FA_INLINE real rmsprop(constants k, real g, real s[], int flags)
{
    real v = s[0] = normal(k.b2 * s[0] + k.c2 * (g * g));
    if (flags & CENTERED) {
        const real mean = s[2] = normal(k.b2 * s[2] + k.c2 * g);
        v = maximum(v - mean * mean, 0); /* which rounding may bring below zero */
    }
    const real denom = sqrt(v) + k.eps;
    if (!(flags & MOMENTUM))
        return (k.step_size * g) / denom;
    const real buffer = s[1] = normal(k.momentum * s[1] + g / denom);
    return k.step_size * buffer;
}

/* Sutskever et al., "On the importance of initialization and momentum in deep
   learning", 2013, in torch.optim's form. */
#define SGD_FLAGS (COUPLED | AVERAGED | MOMENTUM | NESTEROV)
#define SGD_STATES(flags) ((flags) & MOMENTUM ? STATE0 : 0)
FA_INLINE real sgd(constants k, real g, real s[], int flags)
{
    if (flags & MOMENTUM) {
        const real buffer = s[0] = normal(k.momentum * s[0] + k.fresh * g);
        g = flags & NESTEROV ? g + k.momentum * buffer : buffer;
    }
    return k.step_size * g;
}

#endif
#endif
