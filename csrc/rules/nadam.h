/* Dozat, "Incorporating Nesterov Momentum into Adam", 2016. */
enum { NADAM_FLAGS = 0 };
#define NADAM_STATES(flags) (FA_STATE(0) | FA_STATE(1))

#ifndef FA_REAL

static void nadam(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    const double mu = s->b1 * (1 - 0.5 * power(s, 0, h->psi, s->step));
    const double next_mu = s->b1 * (1 - 0.5 * power(s, 0, h->psi, s->step + 1));
    const double mu_product = s->numbers[0] * mu;
    s->grad_step = h->lr * (1 - mu) / (1 - mu_product);
    s->step_size = h->lr * next_mu / (1 - mu_product * next_mu);
    s->root = 1 / sqrt(1 - power(s, 1, s->b2, s->step));
    s->numbers[0] = mu_product;
}

#else

FA_RULE nadam(const constants *k, real p, real g, real s[], int flags)
{
    (void)flags;
    const real m = s[0] = normal(k->b1 * s[0] + k->c1 * g);
    const real v = s[1] = normal(k->b2 * s[1] + k->c2 * (g * g));
    const real denom = root(v) * k->root + k->eps;
    return p * k->keep - (k->step_size * m + k->grad_step * g) / denom;
}

#endif
