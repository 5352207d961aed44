/* The loops over arrays. Compiled once for each instruction set and dtype, with
       FA_REAL  float or double
       FA_NAME  the suffix of the exported names, such as avx2_float32
   One plain loop serves body and tail, so an element's result cannot depend on its
   place. */
#include <float.h>
#include <tgmath.h>

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
    FA_SHORT = 1024,
    FA_BEYOND_CACHE = 2 << 20 /* elements of an array that caches do not hold */
};

typedef FA_REAL real;
#define FA_SMALLEST_NORMAL ((real)(sizeof(real) == sizeof(float) ? FLT_MIN : DBL_MIN))

#include "fastadam.h"

typedef real rule(constants k, real g, real s[], int flags);

/* How many elements come before a cache line's border. Large allocations share their
   offset to one, and vectors that straddle lines cost 10 % (AVX2, in cache). */
static int64_t to_line(const real *first)
{
    const int64_t into = (int64_t)((uintptr_t)first % FA_LINE);
    return (FA_LINE - into) % FA_LINE / (int64_t)sizeof(real);
}

FA_INLINE void prefetch(const real *array)
{
    const char *block = (const char *)array + FA_AHEAD;
    for (int line = 0; line < FA_BATCH; line += FA_LINE)
        FA_PREFETCH(block + line);
}

/* A rule for elements begin..end-1 of an array. `one`, `flags` and `states` are constants
   where this is called. */
FA_INLINE void loop(rule one, const int flags, const int states, const constants k,
                    real *restrict param, const real *restrict grad, real *restrict state0,
                    real *restrict state1, real *restrict state2, real *restrict average,
                    int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        const real p = param[i];
        real g = grad[i] * k.grad_factor;
        if (flags & COUPLED)
            g = g + k.weight_decay * p;
        real s[FA_STATES];
        if (states & STATE0)
            s[0] = state0[i];
        if (states & STATE1)
            s[1] = state1[i];
        if (states & STATE2)
            s[2] = state2[i];
        const real stepped = p * k.keep - one(k, g, s, flags);
        if (states & STATE0)
            state0[i] = s[0];
        if (states & STATE1)
            state1[i] = s[1];
        if (states & STATE2)
            state2[i] = s[2];
        param[i] = stepped;
        if (flags & AVERAGED)
            average[i] = normal(k.ema_decay * average[i] + k.ema_share * stepped);
    }
}

/* Square roots and divisions fill the window in which a CPU looks ahead for loads. Asking
   for memory early brings arrays beyond the caches from 1.09 to 0.92 times the time of
   their streams alone (AVX2); within, it would cost 7 %. */
FA_INLINE void walk(rule one, const int flags, const int states, const fa_array *array,
                    int64_t begin, int64_t end)
{
    const fa_scalars *s = array->scalars;
    const real b1 = (real)s->b1, b2 = (real)s->b2, ema_decay = (real)s->ema_decay;
    const constants k = {
        .grad_factor = (real)s->grad_factor, .weight_decay = (real)s->weight_decay,
        .keep = (real)s->keep, .ema_decay = ema_decay, .ema_share = 1 - ema_decay,
        .b1 = b1, .c1 = 1 - b1, .b2 = b2, .c2 = 1 - b2,
        .step_size = (real)s->step_size, .grad_step = (real)s->grad_step,
        .root = (real)s->root, .eps = (real)s->eps,
        .momentum = (real)s->momentum, .fresh = (real)s->fresh,
    };
    real *p = array->param, *average = array->average;
    real *state0 = array->state[0], *state1 = array->state[1], *state2 = array->state[2];
    const real *g = array->grad;

    if (end - begin < FA_SHORT) { /* what long arrays need costs 4 ns of 20 for ten elements */
        loop(one, flags, states, k, p, g, state0, state1, state2, average, begin, end);
        return;
    }
    const int beyond_cache = array->size >= FA_BEYOND_CACHE;
    const int64_t block = beyond_cache ? FA_BATCH / (int64_t)sizeof(real) : end - begin;
    int64_t stop = begin + to_line(p + begin);
    for (int64_t i = begin; i < end; i = stop, stop = end - i < block ? end : i + block) {
        if (beyond_cache) {
            prefetch(p + i);
            prefetch(g + i);
            if (states & STATE0)
                prefetch(state0 + i);
            if (states & STATE1)
                prefetch(state1 + i);
        }
        loop(one, flags, states, k, p, g, state0, state1, state2, average, i, stop);
    }
}

/* A rule's kernel takes the variant that a step asks for; those that it does not have
   are dead code. */
#define VARIANT(rule, RULE, n) \
    case n: \
        if ((n & ~(RULE##_FLAGS)) == 0) \
            walk(rule, n, RULE##_STATES(n), array, begin, end); \
        break;
#define KERNEL(rule, RULE) \
    static void FA_EXPORT(rule)(const fa_array *array, int64_t begin, int64_t end) \
    { \
        switch (array->scalars->flags) { \
            VARIANT(rule, RULE, 0) VARIANT(rule, RULE, 1) VARIANT(rule, RULE, 2) \
            VARIANT(rule, RULE, 3) VARIANT(rule, RULE, 4) VARIANT(rule, RULE, 5) \
            VARIANT(rule, RULE, 6) VARIANT(rule, RULE, 7) VARIANT(rule, RULE, 8) \
            VARIANT(rule, RULE, 9) VARIANT(rule, RULE, 10) VARIANT(rule, RULE, 11) \
            VARIANT(rule, RULE, 12) VARIANT(rule, RULE, 13) VARIANT(rule, RULE, 14) \
            VARIANT(rule, RULE, 15) \
        } \
    }
FA_RULES(KERNEL)

/* The same loads and stores with one addition each: what the memory and the
   load and store units allow. Benchmarks hold the rule against it. */
static void FA_EXPORT(streams)(const fa_array *array, int64_t begin, int64_t end)
{
    real *restrict p = array->param;
    const real *restrict g = array->grad;
    real *restrict m = array->state[0];
    real *restrict v = array->state[1];

    for (int64_t i = begin; i < end; i++) {
        const real x = g[i];
        p[i] = p[i] + x;
        m[i] = m[i] + x;
        v[i] = v[i] + x;
    }
}

/* The sum of squares of the numbers times `scale`. Sixteen interleaved sums fill
   the widest vectors and are the same for all. */
static double FA_EXPORT(sum_squares)(const void *numbers, int64_t n, double scale)
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

#define ENTRY(rule, RULE) FA_EXPORT(rule),
const fa_kernels FA_EXPORT(kernels) = {
    {FA_RULES(ENTRY)}, FA_EXPORT(streams), FA_EXPORT(sum_squares)};
