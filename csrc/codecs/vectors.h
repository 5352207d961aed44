/* What codecs compute with besides vector.h: vectors of the 32 bits of numbers, and their way from
   and to narrower integers. Each set of instructions has a header; one_number.h is the plainest. */
enum {
    BLOCK = FA_CODE_BLOCK,
    MAGNITUDE = 0x7FFFFFFF, /* of a float32's bits, all but the sign */
    INFINITE = 0x7F800000,
    QUIET_NAN = 0x7FC00000,
    TOGETHER = FA_BYTES ? 2 : 1 /* vectors, whose halves are stored at once */
};

static inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

#if FA_BYTES

typedef bits ints;
typedef ints unaligned_ints __attribute__((aligned(4), may_alias));
typedef uint32_t naturals __attribute__((vector_size(FA_BYTES)));
typedef int16_t shorts __attribute__((vector_size(FA_BYTES)));
typedef shorts unaligned_shorts __attribute__((aligned(2), may_alias));

FA_INLINE ints ints_of(real x) { return (ints)x; }
FA_INLINE real real_of(ints x) { return (real)x; }
FA_INLINE ints load_ints(const void *from) { return *(const unaligned_ints *)from; }
FA_INLINE ints spread_int(int32_t x) { return x - (ints){0}; }
/* Zeros come in, and nothing overflows. */
FA_INLINE ints shifted_right(ints x, int by) { return (ints)((naturals)x >> by); }
FA_INLINE ints shifted_left(ints x, int by) { return (ints)((naturals)x << by); }
FA_INLINE ints added(ints a, ints b) { return (ints)((naturals)a + (naturals)b); }

#if FA_BYTES == 64
#include "avx512.h"
#else
FA_INLINE ints where_less(ints a, ints b, ints x) { return (a < b) & x; }
FA_INLINE ints choose_less(ints a, ints b, ints x, ints y)
{
    return (ints)select(a < b, (real)x, (real)y);
}
FA_INLINE real where_equal(ints a, ints b, real x, real y) { return select(a == b, x, y); }
#if FA_BYTES == 32
#include "avx2.h"
#else
FA_INLINE ints larger_ints(ints a, ints b) { return choose_less(a, b, b, a); }
FA_INLINE int32_t largest_of(ints x)
{
    return larger(larger(x[0], x[1]), larger(x[2], x[3]));
}
#ifdef __SSE2__
#include "sse2.h"
#else
#include "any_cpu.h"
#endif
#endif
#endif

#else
#include "one_number.h"
#endif

#if FA_BYTES != 64 /* which has one instruction for both vectors */
FA_INLINE void store_upper_halves(void *to, const ints x[])
{
    ints upper[TOGETHER];
    for (int k = 0; k < TOGETHER; k++)
        upper[k] = shifted_right(x[k], 16);
    store_halves(to, upper);
}
FA_INLINE void store_lower_halves(void *to, const ints x[])
{
    ints lower[TOGETHER];
    for (int k = 0; k < TOGETHER; k++)
        lower[k] = x[k] & 0xFFFF;
    store_halves(to, lower);
}
#endif

FA_INLINE void load_all(const number *from, real x[])
{
    for (int k = 0; k < TOGETHER; k++)
        x[k] = load(from + k * FA_LANES);
}
FA_INLINE void store_all(number *to, const real x[])
{
    for (int k = 0; k < TOGETHER; k++)
        store(to + k * FA_LANES, x[k]);
}

/* A Weyl sequence: any stretch of it is spread evenly over all 32 bits, and it takes an addition
   for a vector. What makes it random is where it begins (coded.c). */
static inline uint32_t dither_at(uint32_t first, int i)
{
    return first + (uint32_t)i * FA_DITHER_STEP;
}

FA_INLINE ints first_dithers(uint32_t first)
{
#define AT(i) (i) * FA_DITHER_STEP
    static const uint32_t from_zero[] = {AT(0),  AT(1),  AT(2),  AT(3), AT(4),  AT(5),
                                         AT(6),  AT(7),  AT(8),  AT(9), AT(10), AT(11),
                                         AT(12), AT(13), AT(14), AT(15)};
#undef AT
    return added(load_ints(from_zero), spread_int((int32_t)first));
}

FA_INLINE ints later_dithers(ints dithers, int vectors)
{
    return added(dithers, spread_int((int32_t)dither_at(0, vectors * FA_LANES)));
}
