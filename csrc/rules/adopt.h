/* Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate",
   arXiv:2411.02853, algorithm 2; with the clipping that its authors added. */
enum {
    ADOPT_FIRST = FA_FLAG(0),
    ADOPT_CLIPPED = FA_FLAG(1),
    ADOPT_FLAGS = ADOPT_FIRST | ADOPT_CLIPPED
};
#define ADOPT_STATES(flags) (FA_STATE(0) | FA_STATE(1))

#ifndef FA_REAL

static void adopt(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    s->step_size = h->lr;
    if (s->step == 1)
        s->flags |= ADOPT_FIRST;
    else if (h->clip >= 0) {
        s->flags |= ADOPT_CLIPPED;
        s->limit = fa_real_power((double)(s->step - 1), h->clip);
    }
}

#else

FA_RULE adopt(const constants *k, real p, real g, real s[], int flags)
{
    const real v = s[1];
    if (flags & ADOPT_FIRST) {
        s[1] = normal(g * g);
        return p;
    }
    real ratio = g / at_least(root(v), k->eps);
    if (flags & ADOPT_CLIPPED)
        ratio = at_most(at_least(ratio, -k->limit), k->limit);
    const real m = s[0] = normal(k->b1 * s[0] + k->c1 * ratio);
    s[1] = normal(k->b2 * v + k->c2 * (g * g));
    return p * k->keep - k->step_size * m;
}

#endif
