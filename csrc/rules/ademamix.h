/* Pagliardini, Ablin & Grangier, "The AdEMAMix Optimizer: Better, Faster, Older",
   arXiv:2409.03137, algorithm 1; the schedules of alpha and beta3 are those of its section 3. */
enum { ADEMAMIX_FLAGS = 0 };
#define ADEMAMIX_STATES(flags) (FA_STATE(0) | FA_STATE(1) | FA_STATE(2))

#ifndef FA_REAL

static void ademamix(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    const double bc1 = 1 - power(s, 0, s->b1, s->step), bc2 = 1 - power(s, 1, s->b2, s->step);
    const double t = (double)s->step;
    double alpha = h->alpha, beta3 = h->beta3;
    if (t < h->t_alpha)
        alpha = alpha * (t / h->t_alpha);
    if (t < h->t_beta3) { /* beta3^(1/part): the half-life is that part of its last one */
        const double done = t / h->t_beta3, part = done + (1 - done) * h->half_life_ratio;
        if (part < 1)
            beta3 = fa_real_power(beta3, 1 / part);
    }
    s->b3 = rounded(beta3, s);
    s->step_size = h->lr / bc1;
    s->slow_step = h->lr * alpha;
    s->root = 1 / sqrt(bc2);
}

#else

FA_RULE ademamix(const constants *k, real p, real g, real s[], int flags)
{
    (void)flags;
    const real fast = s[0] = normal(k->b1 * s[0] + k->c1 * g);
    const real slow = s[1] = normal(k->b3 * s[1] + k->c3 * g);
    const real v = s[2] = normal(k->b2 * s[2] + k->c2 * (g * g));
    const real denom = root(v) * k->root + k->eps;
    return p * k->keep - (k->step_size * fast + k->slow_step * slow) / denom;
}

#endif
