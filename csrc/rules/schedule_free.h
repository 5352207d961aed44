/* Defazio et al., "The Road Less Scheduled", arXiv:2405.15682, algorithm 1. The parameter is y,
   where gradients are taken; x, where the model is evaluated, is between y and the state z. */
enum { SCHEDULE_FREE_FIRST = FA_FLAG(0), SCHEDULE_FREE_FLAGS = SCHEDULE_FREE_FIRST };
#define SCHEDULE_FREE_STATES(flags) (FA_STATE(0) | FA_STATE(1))

#ifndef FA_REAL

static void schedule_free(fa_scalars *s, const fa_hyper *h)
{
    s->b2 = rounded(h->beta2, s);
    const double t = (double)s->step;
    const double lr = t < h->warmup_steps ? h->lr * (t / h->warmup_steps) : h->lr;
    const double lr_max = lr > s->numbers[1] ? lr : s->numbers[1];
    const double weight = fa_real_power(t, h->r) * fa_real_power(lr_max, h->weight_lr_power);
    const double weight_sum = s->numbers[0] + weight;
    const double share = weight_sum > 0 ? weight / weight_sum : 0;
    s->z_share = share;
    s->grad_step = lr * (1 - h->beta1 * (1 - share));
    s->step_size = lr;
    s->root = 1 / sqrt(1 - power(s, 0, s->b2, s->step));
    s->numbers[0] = weight_sum;
    s->numbers[1] = lr_max;
    s->flags |= s->step == 1 ? SCHEDULE_FREE_FIRST : 0;
}

#else

FA_RULE schedule_free(const constants *k, real p, real g, real s[], int flags)
{
    const real z = flags & SCHEDULE_FREE_FIRST ? p : s[0];
    const real v = s[1] = normal(k->b2 * s[1] + k->c2 * (g * g));
    const real update = g / (root(v) * k->root + k->eps) + k->weight_decay * p;
    s[0] = z - k->step_size * update;
    return p + k->z_share * (z - p) - k->grad_step * update;
}

#endif
