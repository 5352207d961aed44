/* The loops over a view's numbers. Compiled once for each instruction set and dtype, with
       FA_BITS  32 or 64, those of the dtype
       FA_NAME  the suffix of the exported names, such as avx2_float32 */
#include "guards.h"

#if FA_BITS == 32
#define FA_REAL float
#define FA_DTYPE float32
#else
#define FA_REAL double
#define FA_DTYPE float64
#endif

#include "impl.h"
#include "vector.h"

#define FA_JOIN_(a, b) a##_##b
#define FA_JOIN(a, b) FA_JOIN_(a, b)
#define FA_EXPORT(name) FA_JOIN(fa_##name, FA_NAME)

#if defined(__GNUC__)
#define FA_PREFETCH(address) __builtin_prefetch(address)
#elif defined(_M_X64)
#include <intrin.h>
#define FA_PREFETCH(address) _mm_prefetch(address, _MM_HINT_T0)
#else
#define FA_PREFETCH(address) (void)(address)
#endif

enum {
    FA_PREFETCHED = 4 * FA_LINE,  /* bytes that are prefetched at a time, */
    FA_AHEAD = 8 * FA_PREFETCHED, /* and how far ahead */
    FA_SHORT = 256 /* numbers; with fewer, to look for a border costs more than it brings */
};

/* The scalars of a step as rules use them; a c is 1 minus the b beside it. */
#define X(name) real name;
typedef struct {
    FA_SCALARS(X)
    real c1, c2, c3, ema_share;
} constants;
#undef X

#define FA_RULE FA_INLINE real
#include "rules.h"

/* The rules by number and not by address: through an address, MSVC may not inline them. */
#define NUMBER(rule, RULE) RULE##_NUMBER,
enum { FA_RULES(NUMBER) };
#define CASE(rule, RULE) \
    case RULE##_NUMBER: \
        return rule(k, p, g, s, flags);
FA_INLINE real apply(const int rule, const constants *k, real p, real g, real s[], int flags)
{
    switch (rule) {
        FA_RULES(CASE)
    }
    return p;
}

/* The parameter after a step by its gradient as it came; the state is changed. */
FA_INLINE real stepped(const int rule, const int flags, const constants *k, real p, real grad,
                       real s[])
{
    real g = grad * k->grad_factor;
    if (flags & FA_COUPLED)
        g = g + k->weight_decay * p;
    return apply(rule, k, p, g, s, flags);
}

FA_INLINE constants spread_all(const fa_constants *from)
{
#define X(name) k.name = spread(from->rounded.FA_DTYPE.name);
    constants k;
    FA_SCALARS(X)
#undef X
    k.c1 = 1 - k.b1;
    k.c2 = 1 - k.b2;
    k.c3 = 1 - k.b3;
    k.ema_share = 1 - k.ema_decay;
    return k;
}

/* How many numbers come before the first border of a vector. Large allocations share their
   offset to one, and vectors that straddle cache lines cost 10 % (AVX2). */
FA_INLINE int64_t to_border(const number *first)
{
    enum { BYTES = FA_LANES * sizeof(number) };
    const int64_t into = (int64_t)((uintptr_t)first % BYTES);
    return (BYTES - into) % BYTES / (int64_t)sizeof(number);
}

FA_INLINE void prefetch(const number *from)
{
    const char *piece = (const char *)from + FA_AHEAD;
    for (int line = 0; line < FA_PREFETCHED; line += FA_LINE)
        FA_PREFETCH(piece + line);
}

FA_INLINE real get(const number *from, int whole, int64_t n)
{
    return whole ? load(from) : load_first(from, n);
}

FA_INLINE void put(number *to, real x, int whole, int64_t n)
{
    if (whole)
        store(to, x);
    else
        store_first(to, x, n);
}

/* Where a view's streams and gradient begin. */
typedef struct {
    number *param, *state[FA_STATES], *average;
    const number *grad;
} pointers;

FA_INLINE number *moved(void *stream, int64_t by) { return stream ? (number *)stream + by : 0; }

FA_INLINE pointers pointers_of(const fa_view *view)
{
    const fa_streams *streams = view->streams;
    pointers to = {
        moved(streams->param, view->at), {0}, moved(streams->average, view->at), view->grad};
    for (int j = 0; j < FA_STATES; j++)
        to.state[j] = moved(streams->state[j], view->at);
    return to;
}

/* A rule for the vector that begins at element i, or for its first n numbers. `rule`, `flags`,
   `states` and `whole` are constants where this is called. */
FA_INLINE void step(const int rule, const int flags, const int states, const constants *k,
                    const pointers *to, int64_t i, const int whole, int64_t n)
{
    const real p = get(to->param + i, whole, n);
    const real g = get(to->grad + i, whole, n);
    real s[FA_STATES];
    for (int j = 0; j < FA_STATES; j++)
        if (states & FA_STATE(j))
            s[j] = get(to->state[j] + i, whole, n);
    const real after = stepped(rule, flags, k, p, g, s);
    for (int j = 0; j < FA_STATES; j++)
        if (states & FA_STATE(j))
            put(to->state[j] + i, s[j], whole, n);
    put(to->param + i, after, whole, n);
}

/* Square roots and divisions fill the window in which a CPU looks ahead for loads. Asking
   for memory early brings arrays beyond the caches from 1.09 to 0.92 times the time of
   their streams alone (AVX2); within, it would cost 7 %. */
FA_INLINE void walk(const int rule, const int flags, const int states, const fa_view *view,
                    int64_t n, int ahead)
{
    const constants k = spread_all(view->constants);
    const pointers to = pointers_of(view);
    const int64_t piece = ahead ? FA_PREFETCHED / (int64_t)sizeof(number) : n;
    int64_t i = 0, part = n < FA_SHORT ? 0 : to_border(to.param);
    for (; i < n; part = n - i) { /* two rounds: to a border and on, and what is left */
        if (part > 0) {
            step(rule, flags, states, &k, &to, i, 0, part);
            i += part;
        }
        while (n - i >= FA_LANES) {
            const int64_t stop = n - i < piece ? n : i + piece;
            if (ahead) {
                prefetch(to.param + i);
                prefetch(to.grad + i);
                for (int j = 0; j < FA_STATES; j++)
                    if (states & FA_STATE(j))
                        prefetch(to.state[j] + i);
            }
            for (; stop - i >= FA_LANES; i += FA_LANES)
                step(rule, flags, states, &k, &to, i, 1, 0);
        }
    }
}

/* A rule's kernel takes the variant that a step asks for; those that it does not have
   are dead code. */
#define VARIANT(RULE, n, call) \
    case n: \
        if ((n & ~(FA_COUPLED | RULE##_FLAGS)) == 0) \
            call(RULE##_NUMBER, n, RULE##_STATES(n), ARGUMENTS); \
        break;
#define VARIANTS(RULE, call) \
    VARIANT(RULE, 0, call) VARIANT(RULE, 1, call) VARIANT(RULE, 2, call) VARIANT(RULE, 3, call) \
    VARIANT(RULE, 4, call) VARIANT(RULE, 5, call) VARIANT(RULE, 6, call) VARIANT(RULE, 7, call)
#define KERNEL(rule, RULE) \
    _Static_assert(RULE##_FLAGS < 8, #rule " has more flags than the switch"); \
    static void FA_EXPORT(rule)(const fa_view *view, int64_t numbers, int ahead) \
    { \
        switch (view->constants->flags) { VARIANTS(RULE, walk) } \
    }
#define ARGUMENTS view, numbers, ahead
FA_RULES(KERNEL)
#undef ARGUMENTS

/* Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992. It is
   not part of the rules, which would double their variants: what a kernel has just stepped
   is in the first cache. */
FA_INLINE real averaged(const constants *k, real before, real p)
{
    return normal(k->ema_decay * before + k->ema_share * p);
}

FA_INLINE void average_one(const constants *k, const pointers *to, int64_t i, const int whole,
                           int64_t n)
{
    const real p = get(to->param + i, whole, n), before = get(to->average + i, whole, n);
    put(to->average + i, averaged(k, before, p), whole, n);
}

static void FA_EXPORT(average)(const fa_view *view, int64_t n, int ahead)
{
    const constants k = spread_all(view->constants);
    const pointers to = pointers_of(view);
    int64_t i = 0;
    (void)ahead;
    for (; n - i >= FA_LANES; i += FA_LANES)
        average_one(&k, &to, i, 1, 0);
    if (i < n)
        average_one(&k, &to, i, 0, n - i);
}

#if FA_BITS == 32
#include "codecs/codecs.h"

/* A rule for numbers some of which are in half precision. */
FA_INLINE void walk_halves(const int rule, const int flags, const int states,
                           const fa_halves *all, int64_t n)
{
    const constants k = spread_all(all->constants);
    const fa_halves own = *all, *halves = &own; /* or a store could change what it says */
    const half_constants c = spread_half_constants();
    half_dithers dithers[FA_STATES];
    for (int j = 0; j < FA_STATES; j++)
        dithers[j] = first_half_dithers(halves->dither[j]);
    for (int64_t i = 0; i < n; i += TOGETHER * FA_LANES) {
        real p[TOGETHER], g[TOGETHER], s[FA_STATES][TOGETHER], average[TOGETHER];
        load_params(halves, i, p, &c);
        load_grads(halves, i, g);
        for (int j = 0; j < FA_STATES; j++)
            if (states & FA_STATE(j))
                load_moments(halves, j, i, s[j]);
        for (int h = 0; h < TOGETHER; h++) {
            real each[FA_STATES];
            for (int j = 0; j < FA_STATES; j++)
                if (states & FA_STATE(j))
                    each[j] = s[j][h];
            p[h] = stepped(rule, flags, &k, p[h], g[h], each);
            for (int j = 0; j < FA_STATES; j++)
                if (states & FA_STATE(j))
                    s[j][h] = each[j];
        }
        for (int j = 0; j < FA_STATES; j++)
            if (states & FA_STATE(j))
                store_moments(halves, j, i, s[j], &dithers[j], &c);
        store_params(halves, i, p, &c);
        if (halves->average) {
            load_all((const float *)halves->average + i, average);
            for (int h = 0; h < TOGETHER; h++)
                average[h] = averaged(&k, average[h], p[h]);
            store_all((float *)halves->average + i, average);
        }
    }
}

#define HALVES_KERNEL(rule, RULE) \
    static void FA_EXPORT(rule##_halves)(const fa_halves *halves, int64_t numbers) \
    { \
        switch (halves->constants->flags) { VARIANTS(RULE, walk_halves) } \
    }
#define ARGUMENTS halves, numbers
FA_RULES(HALVES_KERNEL)
#undef ARGUMENTS
#endif

/* One addition for each store of a step that keeps so many arrays of state. */
FA_INLINE void touch_one(const int states, const pointers *to, int64_t i, const int whole,
                         int64_t n)
{
    const real g = get(to->grad + i, whole, n);
    put(to->param + i, get(to->param + i, whole, n) + g, whole, n);
    for (int j = 0; j < states; j++)
        put(to->state[j] + i, get(to->state[j] + i, whole, n) + g, whole, n);
}

FA_INLINE void touch_all(const int states, const pointers *all, int64_t n)
{
    const pointers to = *all;
    int64_t i = 0;
    for (; n - i >= FA_LANES; i += FA_LANES)
        touch_one(states, &to, i, 1, 0);
    if (i < n)
        touch_one(states, &to, i, 0, n - i);
}

/* The loads and stores of a step: what the memory and the load and store units allow. Benchmarks
   hold the rules against it. */
static void FA_EXPORT(touch)(const fa_view *view, int64_t n, int ahead)
{
    pointers to = pointers_of(view);
    int states = 0;
    (void)ahead;
    for (int j = 0; j < FA_STATES; j++)
        if (to.state[j])
            to.state[states++] = to.state[j];
    _Static_assert(FA_STATES == 3, "the switch has a case for each number of arrays");
#define TOUCH(states) \
    case states: \
        touch_all(states, &to, n); \
        break;
    switch (states) { TOUCH(0) TOUCH(1) TOUCH(2) TOUCH(3) }
#undef TOUCH
}

/* The sum of squares of the numbers times `scale`. Sixteen interleaved sums fill
   the widest vectors and are the same for all. */
static double FA_EXPORT(sum_squares)(const void *numbers, int64_t n, double scale)
{
    const number *x = numbers;
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
#define HALVES_ENTRY(rule, RULE) FA_EXPORT(rule##_halves),
const fa_kernels FA_EXPORT(kernels) = {
    .rules = {FA_RULES(ENTRY)},
    .average = FA_EXPORT(average),
    .touch = FA_EXPORT(touch),
    .sum_squares = FA_EXPORT(sum_squares),
#if FA_BITS == 32
    .halves = {FA_RULES(HALVES_ENTRY)},
    .codecs = &codecs,
#endif
};
