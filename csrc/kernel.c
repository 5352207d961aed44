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

#if defined(__GNUC__)
#define FA_PREFETCH(address) __builtin_prefetch(address)
#elif defined(_M_X64)
#include <intrin.h>
#define FA_PREFETCH(address) _mm_prefetch(address, _MM_HINT_T0)
#else
#define FA_PREFETCH(address) (void)(address)
#endif

enum {
    FA_LINE = 64,            /* bytes of a cache line, */
    FA_BATCH = 4 * FA_LINE,  /* of what is prefetched at a time */
    FA_AHEAD = 8 * FA_BATCH, /* and of how far ahead */
    FA_BEYOND_CACHE = 2 << 20 /* elements of an array that caches do not hold */
};

typedef FA_REAL real;
#define FA_SMALLEST_NORMAL ((real)(sizeof(real) == sizeof(float) ? FLT_MIN : DBL_MIN))

/* The scalars, rounded to the dtype. */
typedef struct {
    real grad_factor, weight_decay, b1, c1, b2, c2, step_size, root, eps, keep;
} adam_constants;

/* The rule for elements begin..end-1. `coupled` and `amsgrad` are constants where
   this is called, so each combination becomes a loop without branches. */
FA_INLINE void adam_rule(const adam_constants k, real *restrict param,
                         const real *restrict grad, real *restrict exp_avg,
                         real *restrict exp_avg_sq, real *restrict max_exp_avg_sq,
                         int64_t begin, int64_t end, const int coupled, const int amsgrad)
{
    for (int64_t i = begin; i < end; i++) {
        const real p = param[i];
        real g = grad[i] * k.grad_factor;
        if (coupled)
            g = g + k.weight_decay * p;
        real m = k.b1 * exp_avg[i] + k.c1 * g;
        real v = k.b2 * exp_avg_sq[i] + k.c2 * (g * g);
        /* Without this a dead gradient leaves subnormals behind for ever, and
           they slow the loop 1.2 to 3.5 times (10 to 100 on some CPUs). */
        m = fabs(m) < FA_SMALLEST_NORMAL ? 0 : m;
        v = fabs(v) < FA_SMALLEST_NORMAL ? 0 : v;
        real s = v;
        if (amsgrad) {
            const real old = max_exp_avg_sq[i];
            s = old > v || old != old ? old : v; /* a NaN wins */
            max_exp_avg_sq[i] = s;
        }
        const real denom = sqrt(s) * k.root + k.eps;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] = p * k.keep - (k.step_size * m) / denom;
    }
}

/* Long arrays start at a cache line's border: large allocations share their
   offset to one, and vectors that straddle lines cost 10 % (AVX2, in cache). */
static int64_t line_border(const real *param, int64_t begin, int64_t end)
{
    const int64_t into = (int64_t)((uintptr_t)(param + begin) % FA_LINE);
    return into == 0 || end - begin < 1024
               ? begin
               : begin + (FA_LINE - into) / (int64_t)sizeof(real);
}

FA_INLINE void prefetch(const real *array)
{
    const char *block = (const char *)array + FA_AHEAD;
    for (int line = 0; line < FA_BATCH; line += FA_LINE)
        FA_PREFETCH(block + line);
}

/* Square roots and divisions fill the window in which a CPU looks ahead for
   loads. Asking for memory early brings arrays beyond the caches from 1.09 to
   0.92 times the time of their streams alone (AVX2); within, it would cost 7 %. */
FA_INLINE void adam_array(const fa_array *array, int64_t begin, int64_t end, const int coupled,
                          const int amsgrad)
{
    const fa_scalars *s = array->scalars;
    const real b1 = (real)s->b1, b2 = (real)s->b2;
    const adam_constants k = {
        (real)s->grad_factor, (real)s->weight_decay, b1, 1 - b1, b2, 1 - b2,
        (real)s->step_size, (real)s->root, (real)s->eps, (real)s->keep,
    };
    real *p = array->param, *m = array->state[FA_EXP_AVG], *v = array->state[FA_EXP_AVG_SQ],
         *vmax = array->state[FA_MAX_EXP_AVG_SQ];
    const real *g = array->grad;

    const int64_t block = FA_BATCH / (int64_t)sizeof(real);
    int64_t i = line_border(p, begin, end);
    adam_rule(k, p, g, m, v, vmax, begin, i, coupled, amsgrad);
    if (array->size >= FA_BEYOND_CACHE)
        for (; end - i >= block; i += block) {
            prefetch(p + i);
            prefetch(g + i);
            prefetch(m + i);
            prefetch(v + i);
            adam_rule(k, p, g, m, v, vmax, i, i + block, coupled, amsgrad);
        }
    adam_rule(k, p, g, m, v, vmax, i, end, coupled, amsgrad);
}

void FA_EXPORT(adam)(const fa_array *array, int64_t begin, int64_t end)
{
    if (array->scalars->coupled && array->scalars->amsgrad)
        adam_array(array, begin, end, 1, 1);
    else if (array->scalars->coupled)
        adam_array(array, begin, end, 1, 0);
    else if (array->scalars->amsgrad)
        adam_array(array, begin, end, 0, 1);
    else
        adam_array(array, begin, end, 0, 0);
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

/* The sum of squares of the numbers times `scale`. Sixteen interleaved sums fill
   the widest vectors and are the same for all. */
double FA_EXPORT(sum_squares)(const void *numbers, int64_t n, double scale)
{
    const real *x = numbers;
    double sums[16] = {0};
    int64_t i = 0;
    for (; n - i >= 16; i += 16)
        for (int k = 0; k < 16; k++) {
            const double y = (double)x[i + k] * scale;
            sums[k] = sums[k] + y * y;
        }
    for (int k = 0; i < n; i++, k++) {
        const double y = (double)x[i] * scale;
        sums[k] = sums[k] + y * y;
    }
    for (int width = 8; width > 0; width /= 2)
        for (int k = 0; k < width; k++)
            sums[k] = sums[k] + sums[k + width];
    return sums[0];
}
