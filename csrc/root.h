/* Correctly rounded square roots without the divider, for GCC and Clang on x86: the bits are
   those of the CPU's own instruction (in round-to-nearest, which all here assumes).
   docs/square-root.md proves it, and tests/c/root.c does what of that takes a machine.

   From an estimate y of 1/sqrt(x) come h = y/2 and g = 2x*h, which are near 1/(2 sqrt(x)) and
   sqrt(x). r = 1/2 - g*h tells how near: g + g*r and h + h*r have twice as many right bits. At
   last d = x - g*g, and g + h*d is rounded once. Fused operations are asked for by name, so
   -ffp-contract=off changes nothing.

   Zeros are common and need no branch: with h = 0 all is 0, with the sign of x. Whatever else
   does not fit ends with an h that is too large (x below 2^-90 in float32, 2^-958 in float64),
   infinite, negative or NaN (infinity, NaN, negative numbers, numbers whose double overflows).
   As unsigned integers the bits of all these exceed those of the largest h that is allowed, and
   then the CPU's instruction does the whole vector. There is a least x because the root is wrong
   where d is: when the last bit of g*g is lost to underflow, below 2^-102 and 2^-970. The limits
   are 2^12 times that, so that d is hardly ever subnormal, which some CPUs are slow at.

   Only AVX-512 has them. For float32 on AVX2 they were tried (estimates of 12 bits; h + h*(r +
   3/2 r*r) has three times as many right bits): a step took 0.63 ns per element and not 0.35 on
   AMD's Zen 4, on which those of AVX-512 lose, too. For float64 AVX2 has no estimate. NEON's has
   8 bits, so float32 would take two steps before the last one and float64 three, for four and
   two lanes; on paper that gains nothing over fsqrt, and it was not tried. */
#ifndef FASTADAM_ROOT_H
#define FASTADAM_ROOT_H

#include <immintrin.h>

#define ROOT_INLINE static inline __attribute__((always_inline))
#define ROOT_RARELY(condition) __builtin_expect(condition, 0)

/* The last two steps for float64, from h = (1 + e) / (2 sqrt(x)) with |e| <= 2^-27, or 0. */
ROOT_INLINE __m512d root_float64x8_end(__m512d x, __m512d h)
{
    const __m512i most = _mm512_castpd_si512(_mm512_set1_pd(0x1p478));
    __m512d g = _mm512_mul_pd(_mm512_add_pd(x, x), h);
    const __m512d r = _mm512_fnmadd_pd(g, h, _mm512_set1_pd(0.5));
    g = _mm512_fmadd_pd(g, r, g);
    h = _mm512_fmadd_pd(h, r, h);
    if (ROOT_RARELY(_mm512_cmpgt_epu64_mask(_mm512_castpd_si512(h), most) != 0))
        return _mm512_sqrt_pd(x);
    const __m512d d = _mm512_fnmadd_pd(g, g, x);
    return _mm512_fmadd_pd(h, d, g);
}

/* From y = (1 + e) / sqrt(x) with |e| <= 2^-14. The first step changes h alone: with g carried
   along, too, 1 + 2^-52 comes out wrong from one in 30,000 of these y. */
ROOT_INLINE __m512d root_float64x8_from(__m512d x, __m512d y)
{
    const __mmask8 nonzero = _mm512_cmp_pd_mask(x, _mm512_setzero_pd(), _CMP_NEQ_UQ);
    const __m512d half = _mm512_set1_pd(0.5);
    __m512d h = _mm512_mul_pd(_mm512_maskz_mov_pd(nonzero, y), half);
    const __m512d g = _mm512_mul_pd(_mm512_add_pd(x, x), h);
    const __m512d r = _mm512_fnmadd_pd(g, h, half);
    h = _mm512_fmadd_pd(h, r, h);
    return root_float64x8_end(x, h);
}

ROOT_INLINE __m512d root_float64x8(__m512d x)
{
    return root_float64x8_from(x, _mm512_rsqrt14_pd(x));
}

/* From y = (1 + e) / sqrt(x) with |e| <= 2^-14. */
ROOT_INLINE __m512 root_float32x16_from(__m512 x, __m512 y)
{
    const __m512i most = _mm512_castps_si512(_mm512_set1_ps(0x1p44f));
    const __mmask16 nonzero = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512 half = _mm512_set1_ps(0.5f);
    y = _mm512_maskz_mov_ps(nonzero, y);
    __m512 g = _mm512_mul_ps(x, y), h = _mm512_mul_ps(y, half);
    const __m512 r = _mm512_fnmadd_ps(g, h, half);
    g = _mm512_fmadd_ps(g, r, g);
    h = _mm512_fmadd_ps(h, r, h);
    if (ROOT_RARELY(_mm512_cmpgt_epu32_mask(_mm512_castps_si512(h), most) != 0))
        return _mm512_sqrt_ps(x);
    const __m512 d = _mm512_fnmadd_ps(g, g, x);
    return _mm512_fmadd_ps(h, d, g);
}

ROOT_INLINE __m512 root_float32x16(__m512 x)
{
    return root_float32x16_from(x, _mm512_rsqrt14_ps(x));
}

#endif
