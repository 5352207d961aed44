/* Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond",
   arXiv:1908.03265, algorithm 2. */
enum { RECTIFIED = FA_FLAG(0), RADAM_FLAGS = RECTIFIED };
#define RADAM_STATES(flags) (FA_STATE(0) | FA_STATE(1))

#ifndef FA_REAL

static void radam(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    const double bc1 = 1 - power(s, 0, s->b1, s->step), bc2 = 1 - power(s, 1, s->b2, s->step);
    const double rho_inf = 2 / (1 - s->b2) - 1;
    const double rho = rho_inf - 2 * (double)s->step * (1 - bc2) / bc2;
    s->step_size = h->lr / bc1;
    if (rho > 5) {
        const double r = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho);
        s->step_size = h->lr * sqrt(r) * sqrt(bc2) / bc1;
        s->flags |= RECTIFIED;
    }
}

#else

FA_RULE radam(const constants *k, real p, real g, real s[], int flags)
{
    const real m = s[0] = normal(k->b1 * s[0] + k->c1 * g);
    const real v = s[1] = normal(k->b2 * s[1] + k->c2 * (g * g));
    const real update = k->step_size * m;
    return p * k->keep - (flags & RECTIFIED ? update / (root(v) + k->eps) : update);
}

#endif
