/* What a CPU's units take for the operations of a step of Adam whose numbers are at hand. Compiled
   by roofline.py as csrc/kernel.c is, for an instruction set and a dtype (FA_REAL, FA_BITS). */
#include "guards.h"

#include "vector.h"

enum { NUMBERS = 2048 }; /* in each array: a first cache has room for all */

static number sum_of(real x)
{
    number all[FA_LANES], sum = 0;
    store(all, x);
    for (int i = 0; i < FA_LANES; i++)
        sum += all[i];
    return sum;
}

/* A square root and a division for each number. */
double divider(const number *m, const number *v, int64_t passes)
{
    real sum = spread(0);
    for (int64_t pass = 0; pass < passes; pass++)
        for (int64_t i = 0; i < NUMBERS; i += FA_LANES)
            sum = sum + load(m + i) / root(load(v + i));
    return sum_of(sum);
}

/* All other operations of csrc/rules/adam.h, with a product where that divides, and its loads. The
   four arrays lie one behind the other. */
double arithmetic(const number *numbers, const number *constants, int64_t passes)
{
    const number *const grad = numbers, *const param = grad + NUMBERS;
    const number *const exp_avg = param + NUMBERS, *const exp_avg_sq = exp_avg + NUMBERS;
    real k[9], sum = spread(0);
    for (int i = 0; i < 9; i++)
        k[i] = spread(constants[i]);
    for (int64_t pass = 0; pass < passes; pass++)
        for (int64_t i = 0; i < NUMBERS; i += FA_LANES) {
            const real g = load(grad + i) * k[0];
            const real m = normal(k[1] * load(exp_avg + i) + k[2] * g);
            const real v = normal(k[3] * load(exp_avg_sq + i) + k[4] * (g * g));
            const real denom = v * k[5] + k[6];
            sum = sum + (load(param + i) * k[7] - (k[8] * m) * denom);
        }
    return sum_of(sum);
}
