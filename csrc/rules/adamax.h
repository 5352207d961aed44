/* Kingma & Ba, arXiv:1412.6980, algorithm 2. */
enum { ADAMAX_FLAGS = 0 };
#define ADAMAX_STATES(flags) (FA_STATE(0) | FA_STATE(1))

#ifndef FA_REAL

static void adamax(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    s->step_size = h->lr / (1 - power(s, 0, s->b1, s->step));
}

#else

FA_RULE adamax(const constants *k, real p, real g, real s[], int flags)
{
    (void)flags;
    const real m = s[0] = normal(k->b1 * s[0] + k->c1 * g);
    const real u = s[1] = maximum(k->b2 * s[1], magnitude(g) + k->eps);
    return p * k->keep - (k->step_size * m) / u;
}

#endif
