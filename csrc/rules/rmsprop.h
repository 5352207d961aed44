/* Tieleman & Hinton, lecture 6.5 of "Neural Networks for Machine Learning", 2012;
   centered: Graves, arXiv:1308.0850, equations 38-45. */
enum {
    RMSPROP_MOMENTUM = FA_FLAG(0),
    CENTERED = FA_FLAG(1),
    RMSPROP_FLAGS = RMSPROP_MOMENTUM | CENTERED
};
#define RMSPROP_STATES(flags) \
    (FA_STATE(0) | ((flags) & RMSPROP_MOMENTUM ? FA_STATE(1) : 0) | \
     ((flags) & CENTERED ? FA_STATE(2) : 0))

#ifndef FA_REAL

static void rmsprop(fa_scalars *s, const fa_hyper *h)
{
    s->b2 = rounded(h->alpha, s);
    s->step_size = h->lr;
    s->momentum = h->momentum;
    s->flags |= (h->momentum != 0 ? RMSPROP_MOMENTUM : 0) | (h->centered != 0 ? CENTERED : 0);
}

#else

FA_RULE rmsprop(const constants *k, real p, real g, real s[], int flags)
{
    real v = s[0] = normal(k->b2 * s[0] + k->c2 * (g * g));
    if (flags & CENTERED) {
        const real mean = s[2] = normal(k->b2 * s[2] + k->c2 * g);
        v = maximum(v - mean * mean, spread(0)); /* which rounding may bring below zero */
    }
    const real denom = root(v) + k->eps;
    if (!(flags & RMSPROP_MOMENTUM))
        return p * k->keep - (k->step_size * g) / denom;
    const real buffer = s[1] = normal(k->momentum * s[1] + g / denom);
    return p * k->keep - k->step_size * buffer;
}

#endif
