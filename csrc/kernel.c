/* The rule. Compiled once for each instruction set and dtype, with
       FA_REAL  float or double
       FA_NAME  the suffix of the exported names, such as avx2_float32
   One plain loop serves body and tail, so an element's result cannot depend on
   its place. fastadam/_numpy.py says the same in NumPy, in the same order.

   No operation may be fused or reordered (-ffp-contract=off): add, multiply,
   divide and square root are then correctly rounded on every CPU. */
#include <float.h>
#include <tgmath.h>

#include "fastadam.h"

#define FA_JOIN_(a, b) a##_##b
#define FA_JOIN(a, b) FA_JOIN_(a, b)
#define FA_EXPORT(name) FA_JOIN(fa_##name, FA_NAME)

#ifdef _MSC_VER
#define FA_INLINE static __forceinline
#else
#define FA_INLINE static inline __attribute__((always_inline))
#endif

typedef FA_REAL real;
#define FA_SMALLEST_NORMAL (sizeof(real) == sizeof(float) ? FLT_MIN : DBL_MIN)

/* `coupled` and `amsgrad` are constants where this is called, so each of the
   four combinations becomes a loop without branches. */
FA_INLINE void adam_loop(const fa_scalars *scalars, real *restrict param,
                         const real *restrict grad, real *restrict exp_avg,
                         real *restrict exp_avg_sq, real *restrict max_exp_avg_sq,
                         int64_t n, const int coupled, const int amsgrad)
{
    const real grad_factor = (real)scalars->grad_factor;
    const real weight_decay = (real)scalars->weight_decay;
    const real b1 = (real)scalars->b1, c1 = 1 - b1;
    const real b2 = (real)scalars->b2, c2 = 1 - b2;
    const real step_size = (real)scalars->step_size;
    const real root = (real)scalars->root;
    const real eps = (real)scalars->eps;
    const real keep = (real)scalars->keep;
    const real smallest_normal = (real)FA_SMALLEST_NORMAL;

    for (int64_t i = 0; i < n; i++) {
        const real p = param[i];
        real g = grad[i] * grad_factor;
        if (coupled)
            g = g + weight_decay * p;
        real m = b1 * exp_avg[i] + c1 * g;
        real v = b2 * exp_avg_sq[i] + c2 * (g * g);
        /* Without this a dead gradient leaves subnormals behind for ever, and
           they slow the loop 1.2 to 3.5 times (10 to 100 on some CPUs). */
        m = fabs(m) < smallest_normal ? 0 : m;
        v = fabs(v) < smallest_normal ? 0 : v;
        real s = v;
        if (amsgrad) {
            const real old = max_exp_avg_sq[i];
            s = old > v || old != old ? old : v; /* a NaN wins */
            max_exp_avg_sq[i] = s;
        }
        const real denom = sqrt(s) * root + eps;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] = p * keep - (step_size * m) / denom;
    }
}

static void FA_EXPORT(adam_range)(const fa_array *array, int64_t begin, int64_t end)
{
    const fa_scalars *scalars = array->scalars;
    real *p = (real *)array->param + begin;
    const real *g = (const real *)array->grad + begin;
    real *m = (real *)array->state[FA_EXP_AVG] + begin;
    real *v = (real *)array->state[FA_EXP_AVG_SQ] + begin;
    const int64_t n = end - begin;

    if (scalars->amsgrad) {
        real *vmax = (real *)array->state[FA_MAX_EXP_AVG_SQ] + begin;
        if (scalars->coupled)
            adam_loop(scalars, p, g, m, v, vmax, n, 1, 1);
        else
            adam_loop(scalars, p, g, m, v, vmax, n, 0, 1);
    } else {
        if (scalars->coupled)
            adam_loop(scalars, p, g, m, v, 0, n, 1, 0);
        else
            adam_loop(scalars, p, g, m, v, 0, n, 0, 0);
    }
}

/* Long arrays start at a cache line's border: large allocations share their
   offset to one, and vectors that straddle lines cost 10 % (AVX2, in cache). */
static int64_t line_border(const real *param, int64_t begin, int64_t end)
{
    const int64_t line = 64, into = (int64_t)((uintptr_t)(param + begin) % line);
    return into == 0 || end - begin < 1024 ? begin : begin + (line - into) / (int64_t)sizeof(real);
}

void FA_EXPORT(adam)(const fa_array *array, int64_t begin, int64_t end)
{
    const int64_t border = line_border(array->param, begin, end);
    FA_EXPORT(adam_range)(array, begin, border);
    FA_EXPORT(adam_range)(array, border, end);
}

/* The same loads and stores with one addition each: what the memory and the
   load and store units allow. Benchmarks hold the rule against it. */
void FA_EXPORT(streams)(const fa_array *array, int64_t begin, int64_t end)
{
    real *restrict p = array->param;
    const real *restrict g = array->grad;
    real *restrict m = array->state[FA_EXP_AVG];
    real *restrict v = array->state[FA_EXP_AVG_SQ];

    for (int64_t i = begin; i < end; i++) {
        const real x = g[i];
        p[i] = p[i] + x;
        m[i] = m[i] + x;
        v[i] = v[i] + x;
    }
}
