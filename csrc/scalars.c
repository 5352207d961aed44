/* The scalars of a step; fastadam/_numpy.py has the same in Python. */
#include <math.h>

#include "fastadam.h"

fa_scalars fa_adam_scalars(const fa_hyper *hyper, int64_t step, int dtype, double clip)
{
    fa_scalars s;
    /* The kernel uses betas rounded to the dtype, so the bias corrections must:
       with 1 - 0.999 rounded by itself, float32 updates are 4.7e-6 off. */
    s.b1 = dtype == FA_FLOAT32 ? (float)hyper->beta1 : hyper->beta1;
    s.b2 = dtype == FA_FLOAT32 ? (float)hyper->beta2 : hyper->beta2;
    const double bc1 = 1 - pow(s.b1, (double)step);
    const double bc2 = 1 - pow(s.b2, (double)step);
    s.step_size = hyper->epsilon_hat ? hyper->lr * sqrt(bc2) / bc1 : hyper->lr / bc1;
    s.root = hyper->epsilon_hat ? 1 : 1 / sqrt(bc2);
    s.eps = hyper->eps;
    s.keep = hyper->decoupled ? 1 - hyper->lr * hyper->weight_decay : 1;
    s.coupled = !hyper->decoupled && hyper->weight_decay != 0;
    s.weight_decay = hyper->weight_decay;
    s.grad_factor = (hyper->maximize ? -clip : clip) / hyper->loss_scale;
    s.amsgrad = hyper->amsgrad;
    s.step = step;
    s.group = 0;
    s.dtype = dtype;
    return s;
}
