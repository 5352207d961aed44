/* What kernel.c and rules/ compute with. A `real` is as many numbers of the dtype as the
   instruction set's registers hold: C's operators work on all of them at once, each number
   rounded as by itself, so that an element's result cannot depend on its place. Where the
   compiler has no such vectors (GCC and Clang do), a `real` is one number.

   Needs FA_REAL and FA_BITS (32 or 64). */
#ifndef FASTADAM_VECTOR_H
#define FASTADAM_VECTOR_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define FA_INLINE static __forceinline
#else
#define FA_INLINE static inline __attribute__((always_inline))
#endif

#if FA_BITS == 32
#define FA_SMALLEST_NORMAL FLT_MIN
#define FA_PER_SMALLEST_NORMAL 0x1p126f
#define FA_SQRT sqrtf
#define FA_ABS fabsf
typedef int32_t integer;
typedef uint32_t natural;
#else
#define FA_SMALLEST_NORMAL DBL_MIN
#define FA_PER_SMALLEST_NORMAL 0x1p1022
#define FA_SQRT sqrt
#define FA_ABS fabs
typedef int64_t integer;
typedef uint64_t natural;
#endif
typedef FA_REAL number;

/* The bytes of a vector; 0: there are none. */
#if !defined(__GNUC__)
#define FA_BYTES 0
#elif defined(__AVX512F__)
#define FA_BYTES 64
#elif defined(__AVX2__)
#define FA_BYTES 32
#elif defined(__SSE2__) || defined(__ARM_NEON)
#define FA_BYTES 16
#else
#define FA_BYTES 0
#endif

#if FA_BYTES

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#ifdef FA_ESTIMATE
#include "root.h"
#endif

enum { FA_LANES = FA_BYTES / (FA_BITS / 8) };
/* x86's vectors, and what it does to them. */
#if FA_BYTES == 64 && FA_BITS == 32
typedef __m512 native;
#define FA_PACKED(operation) _mm512_##operation##_ps
#elif FA_BYTES == 64
typedef __m512d native;
#define FA_PACKED(operation) _mm512_##operation##_pd
#elif FA_BYTES == 32 && FA_BITS == 32
typedef __m256 native;
#define FA_PACKED(operation) _mm256_##operation##_ps
#elif FA_BYTES == 32
typedef __m256d native;
#define FA_PACKED(operation) _mm256_##operation##_pd
#elif defined(__SSE2__) && FA_BITS == 32
typedef __m128 native;
#define FA_PACKED(operation) _mm_##operation##_ps
#elif defined(__SSE2__)
typedef __m128d native;
#define FA_PACKED(operation) _mm_##operation##_pd
#endif

typedef number real __attribute__((vector_size(FA_BYTES)));
typedef integer bits __attribute__((vector_size(FA_BYTES)));
typedef real unaligned __attribute__((aligned(FA_BITS / 8), may_alias));

/* x - 0 is x, whatever its sign. */
FA_INLINE real spread(number x) { return x - (real){0}; }
FA_INLINE real load(const number *from) { return *(const unaligned *)from; }
FA_INLINE void store(number *to, real x) { *(unaligned *)to = x; }

/* The first n numbers of a vector, 0 < n < FA_LANES; loaded, the others are zeros. */
#if FA_BYTES == 64 && FA_BITS == 32
#define FA_FIRST(n) ((__mmask16)((1u << (n)) - 1))
FA_INLINE real load_first(const number *from, int64_t n)
{
    return (real)_mm512_maskz_loadu_ps(FA_FIRST(n), from);
}
FA_INLINE void store_first(number *to, real x, int64_t n)
{
    _mm512_mask_storeu_ps(to, FA_FIRST(n), (__m512)x);
}
#elif FA_BYTES == 64
#define FA_FIRST(n) ((__mmask8)((1u << (n)) - 1))
FA_INLINE real load_first(const number *from, int64_t n)
{
    return (real)_mm512_maskz_loadu_pd(FA_FIRST(n), from);
}
FA_INLINE void store_first(number *to, real x, int64_t n)
{
    _mm512_mask_storeu_pd(to, FA_FIRST(n), (__m512d)x);
}
#else
/* Halves, quarters and eighths. (AVX2's masked stores take AMD's CPUs 10 ns each.) */
#if defined(__SSE2__) && FA_BITS == 32
FA_INLINE __m128 load_first_of_4(const number *from, int64_t n)
{
    __m128 x = n & 1 ? _mm_load_ss(from + (n & 2)) : _mm_setzero_ps();
    return n & 2 ? _mm_loadl_pi(_mm_movelh_ps(x, x), (const __m64 *)from) : x;
}
#elif defined(__SSE2__)
FA_INLINE __m128d load_first_of_2(const number *from, int64_t n)
{
    return n ? _mm_load_sd(from) : _mm_setzero_pd();
}
#endif
FA_INLINE real load_first(const number *from, int64_t n)
{
#if defined(__SSE2__) && FA_BYTES == 32 && FA_BITS == 32
    const __m128 rest = load_first_of_4(from + (n & 4), n & 3);
    return (real)(n & 4 ? _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), rest, 1)
                        : _mm256_zextps128_ps256(rest));
#elif defined(__SSE2__) && FA_BYTES == 32
    const __m128d rest = load_first_of_2(from + (n & 2), n & 1);
    return (real)(n & 2 ? _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(from)), rest, 1)
                        : _mm256_zextpd128_pd256(rest));
#elif defined(__SSE2__) && FA_BITS == 32
    return (real)load_first_of_4(from, n);
#elif defined(__SSE2__)
    return (real)load_first_of_2(from, n);
#else
    number x[FA_LANES] = {0};
    for (int64_t i = 0; i < n; i++)
        x[i] = from[i];
    return load(x);
#endif
}
FA_INLINE void store_first(number *to, real x, int64_t n)
{
    number from[FA_LANES];
    store(from, x);
    for (int64_t i = 0, width = FA_LANES / 2; width > 0; width /= 2)
        if (n & width) {
            memcpy(to + i, from + i, (size_t)width * sizeof(number));
            i += width;
        }
}
#endif

FA_INLINE real magnitude(real x)
{
    return (real)((bits)x & ~((bits){0} + (integer)((natural)1 << (FA_BITS - 1))));
}
FA_INLINE real select(bits mask, real a, real b) /* a where the mask is set */
{
    return (real)(((bits)a & mask) | ((bits)b & ~mask));
}

#if defined(FA_ESTIMATE) && FA_BITS == 32
FA_INLINE real root(real x) { return (real)root_float32x16((__m512)x); }
#elif defined(FA_ESTIMATE)
FA_INLINE real root(real x) { return (real)root_float64x8((__m512d)x); }
#elif defined(__SSE2__)
FA_INLINE real root(real x) { return (real)FA_PACKED(sqrt)((native)x); }
#else
FA_INLINE real root(real x) /* one instruction a vector, too: the loop goes away */
{
    for (int i = 0; i < FA_LANES; i++)
        x[i] = FA_SQRT(x[i]);
    return x;
}
#endif

FA_INLINE real normal(real x)
{
    return (real)((bits)x & ~(bits)(magnitude(x) < FA_SMALLEST_NORMAL));
}
/* b unless a is greater, or a NaN. */
FA_INLINE real maximum(real a, real b)
{
#if FA_BYTES == 64 && FA_BITS == 32
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_UNORD_Q);
    return (real)_mm512_mask_max_ps((__m512)a, (__mmask16)~nan, (__m512)a, (__m512)b);
#elif FA_BYTES == 64
    const __mmask8 nan = _mm512_cmp_pd_mask((__m512d)a, (__m512d)a, _CMP_UNORD_Q);
    return (real)_mm512_mask_max_pd((__m512d)a, (__mmask8)~nan, (__m512d)a, (__m512d)b);
#else
    return select((bits)((a > b) | (a != a)), a, b);
#endif
}

/* The bound where x is below it, or above it; a NaN stays one. x86 has an instruction for each. */
#if defined(__SSE2__)
FA_INLINE real at_least(real x, real bound)
{
    return (real)FA_PACKED(max)((native)bound, (native)x);
}
FA_INLINE real at_most(real x, real bound)
{
    return (real)FA_PACKED(min)((native)bound, (native)x);
}
#else
FA_INLINE real at_least(real x, real bound) { return select((bits)(bound > x), bound, x); }
FA_INLINE real at_most(real x, real bound) { return select((bits)(bound < x), bound, x); }
#endif

#else

enum { FA_LANES = 1 };
typedef number real;
FA_INLINE real spread(number x) { return x; }
FA_INLINE real load(const number *from) { return *from; }
FA_INLINE void store(number *to, real x) { *to = x; }
FA_INLINE real load_first(const number *from, int64_t n) { return n ? *from : 0; }
FA_INLINE void store_first(number *to, real x, int64_t n) { *to = n ? x : *to; }
FA_INLINE real magnitude(real x) { return FA_ABS(x); }
FA_INLINE real root(real x) { return FA_SQRT(x); }
FA_INLINE real normal(real x) { return FA_ABS(x) < FA_SMALLEST_NORMAL ? 0 : x; }
FA_INLINE real maximum(real a, real b) { return a > b || a != a ? a : b; }
FA_INLINE real at_least(real x, real bound) { return bound > x ? bound : x; }
FA_INLINE real at_most(real x, real bound) { return bound < x ? bound : x; }

#endif

/* 1 or -1, but smaller than that below the smallest normal number, and 0 for 0; a NaN stays one.
   With comparisons in place of the product, a step of Lion took 1.2 times as long (AVX-512). */
FA_INLINE real sign(real x)
{
    const real one = spread(1);
    return at_most(at_least(x * FA_PER_SMALLEST_NORMAL, -one), one);
}

#endif
