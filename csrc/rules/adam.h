/* Kingma & Ba, arXiv:1412.6980, algorithm 1; AMSGrad: Reddi, Kale & Kumar,
   arXiv:1904.09237, algorithm 2. */
enum { AMSGRAD = FA_FLAG(0), ADAM_FLAGS = AMSGRAD };
#define ADAM_STATES(flags) \
    (FA_STATE(0) | FA_STATE(1) | ((flags) & AMSGRAD ? FA_STATE(2) : 0))

#ifndef FA_REAL

static void adam(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    const double bc1 = 1 - power(s, 0, s->b1, s->step), bc2 = 1 - power(s, 1, s->b2, s->step);
    s->step_size = h->epsilon_hat != 0 ? h->lr * sqrt(bc2) / bc1 : h->lr / bc1;
    s->root = h->epsilon_hat != 0 ? 1 : 1 / sqrt(bc2);
    s->flags |= h->amsgrad != 0 ? AMSGRAD : 0;
}

#else

FA_RULE adam(const constants *k, real p, real g, real s[], int flags)
{
    const real m = s[0] = normal(k->b1 * s[0] + k->c1 * g);
    real v = s[1] = normal(k->b2 * s[1] + k->c2 * (g * g));
    if (flags & AMSGRAD)
        v = s[2] = maximum(s[2], v);
    const real denom = root(v) * k->root + k->eps;
    return p * k->keep - (k->step_size * m) / denom;
}

#endif
