/* Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2. */
enum { LION_FLAGS = 0 };
#define LION_STATES(flags) FA_STATE(0)

#ifndef FA_REAL

static void lion(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    s->step_size = h->lr;
}

#else

FA_RULE lion(const constants *k, real p, real g, real s[], int flags)
{
    (void)flags;
    const real direction = sign(k->b1 * s[0] + k->c1 * g);
    s[0] = normal(k->b2 * s[0] + k->c2 * g);
    return p * k->keep - k->step_size * direction;
}

#endif
