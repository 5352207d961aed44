/* The scalars of a step, in double; fastadam/_rules.py has the same in Python. */
#include <math.h>

#include "fastadam.h"

/* The kernels use betas rounded to the dtype, so the bias corrections must: with
   1 - 0.999 rounded by itself, float32 updates are 4.7e-6 off. Where two numbers in a row
   are rounded, GCC 12 (-O2 and up) makes one vector of them and forgets to: hence volatile. */
static double rounded(double x, const fa_scalars *s)
{
    const volatile float nearest = (float)x;
    return s->dtype == FA_FLOAT32 ? nearest : x;
}

static double power(double b, int64_t exponent) { return pow(b, (double)exponent); }

static void adam(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    const double bc1 = 1 - power(s->b1, s->step), bc2 = 1 - power(s->b2, s->step);
    s->step_size = h->epsilon_hat ? h->lr * sqrt(bc2) / bc1 : h->lr / bc1;
    s->root = h->epsilon_hat ? 1 : 1 / sqrt(bc2);
    s->flags |= h->amsgrad ? AMSGRAD : 0;
}

static void nadam(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    const double psi = pow(0.96, h->momentum_decay);
    const double mu = s->b1 * (1 - 0.5 * power(psi, s->step));
    const double next_mu = s->b1 * (1 - 0.5 * power(psi, s->step + 1));
    s->next_mu_product = s->mu_product * mu;
    s->grad_step = h->lr * (1 - mu) / (1 - s->next_mu_product);
    s->step_size = h->lr * next_mu / (1 - s->next_mu_product * next_mu);
    s->root = 1 / sqrt(1 - power(s->b2, s->step));
}

static void radam(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    const double bc1 = 1 - power(s->b1, s->step), bc2 = 1 - power(s->b2, s->step);
    const double rho_inf = 2 / (1 - s->b2) - 1;
    const double rho = rho_inf - 2 * (double)s->step * (1 - bc2) / bc2;
    s->step_size = h->lr / bc1;
    if (rho > 5) {
        const double r = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho);
        s->step_size = h->lr * sqrt(r) * sqrt(bc2) / bc1;
        s->flags |= RECTIFIED;
    }
}

static void adamax(fa_scalars *s, const fa_hyper *h)
{
    s->b1 = rounded(h->beta1, s);
    s->b2 = rounded(h->beta2, s);
    s->step_size = h->lr / (1 - power(s->b1, s->step));
}

static void rmsprop(fa_scalars *s, const fa_hyper *h)
{
    s->b2 = rounded(h->alpha, s);
    s->step_size = h->lr;
    s->momentum = h->momentum;
    s->flags |= (h->momentum != 0 ? MOMENTUM : 0) | (h->centered ? CENTERED : 0);
}

static void sgd(fa_scalars *s, const fa_hyper *h)
{
    s->step_size = h->lr;
    s->momentum = h->momentum;
    s->fresh = s->step == 1 ? 1 : 1 - h->dampening; /* torch.optim's first step is undamped */
    s->flags |= (h->momentum != 0 ? MOMENTUM : 0) | (h->nesterov ? NESTEROV : 0);
}

#define X(rule, RULE) rule,
static void (*const rules[FA_N_RULES])(fa_scalars *, const fa_hyper *) = {FA_RULES(X)};
#undef X

fa_scalars fa_next_scalars(int rule, const fa_hyper *hyper, const fa_array *array, double clip)
{
    fa_scalars s = {
        .grad_factor = (hyper->maximize ? -clip : clip) / hyper->loss_scale,
        .weight_decay = hyper->weight_decay,
        .keep = hyper->decoupled ? 1 - hyper->lr * hyper->weight_decay : 1,
        .ema_decay = hyper->ema_decay,
        .eps = hyper->eps,
        .step = array->step + 1,
        .group = array->group,
        .dtype = array->dtype,
        .mu_product = array->mu_product,
        .next_mu_product = array->mu_product,
    };
    s.flags = (!hyper->decoupled && hyper->weight_decay != 0 ? COUPLED : 0) |
              (array->average ? AVERAGED : 0);
    rules[rule](&s, hyper);
    return s;
}
