/* The scalars of a step, in double; fastadam/_rules/ has the same in Python. */
#include "guards.h"

#include <math.h>
#include <string.h>

#include "impl.h"

/* The kernels use betas rounded to the dtype, so the bias corrections must: with
   1 - 0.999 rounded by itself, float32 updates are 4.7e-6 off. Where two numbers in a row
   are rounded, GCC 12 (-O2 and up) makes one vector of them and forgets to: hence volatile. */
static double rounded(double x, const fa_scalars *s)
{
    const volatile float nearest = (float)x;
    return s->dtype == FA_FLOAT32 ? nearest : x;
}

/* base^n. A rule raises each of its bases in a place k of its own. */
static double power(const fa_scalars *s, int k, double base, int64_t n)
{
    return fa_power(&s->powers[k], base, n);
}

#include "rules.h"

#define STATES(rule, RULE) \
    static int states_of_##rule(int flags) { (void)flags; return RULE##_STATES(flags); }
FA_RULES(STATES)

#define ROW(rule, RULE) {#rule, rule, states_of_##rule},
static const struct {
    const char *name;
    void (*scalars)(fa_scalars *, const fa_hyper *);
    int (*states)(int flags);
} rules[] = {FA_RULES(ROW){0}};
_Static_assert(sizeof rules / sizeof *rules <= FA_MOST_RULES + 1, "raise FA_MOST_RULES");

#define X(name) #name,
const char *const fa_hyper_names[FA_HYPERS] = {FA_HYPER(X)};
#undef X

const char *fa_rule_name(int rule) { return rules[rule].name; }

size_t fa_constants_size(void) { return sizeof(fa_constants); }

int fa_states_kept(int rule, const fa_hyper *hyper)
{
    fa_power_memo powers[FA_POWERS] = {{0}};
    fa_scalars s = {.dtype = FA_FLOAT64, .step = 1, .powers = powers};
    rules[rule].scalars(&s, hyper);
    return rules[rule].states(s.flags);
}

void fa_next_constants(fa_constants *to, const fa_batch *batch, const fa_array *array, double clip)
{
    const fa_hyper *hyper = &batch->groups[array->group];
    const int decoupled = hyper->decoupled_weight_decay != 0;
    fa_scalars s = {
        .grad_factor = (hyper->maximize != 0 ? -clip : clip) / batch->loss_scale,
        .weight_decay = hyper->weight_decay,
        .keep = decoupled ? 1 - hyper->lr * hyper->weight_decay : 1,
        .ema_decay = hyper->ema_decay,
        .eps = hyper->eps,
        .flags = !decoupled && hyper->weight_decay != 0 ? FA_COUPLED : 0,
        .dtype = array->dtype,
        .step = array->step + 1,
        .powers = to->powers,
    };
    memcpy(s.numbers, array->numbers, sizeof s.numbers);
    rules[batch->rule].scalars(&s, hyper);

    to->flags = s.flags;
    to->group = array->group;
    to->dtype = s.dtype;
    to->step = s.step;
    memcpy(to->before, array->numbers, sizeof s.numbers);
    memcpy(to->after, s.numbers, sizeof s.numbers);
    if (s.dtype == FA_FLOAT32) {
#define X(name) to->rounded.float32.name = (float)s.name;
        FA_SCALARS(X)
#undef X
    } else {
#define X(name) to->rounded.float64.name = s.name;
        FA_SCALARS(X)
#undef X
    }
}
