/* Correctly rounded square roots without the divider, for GCC and Clang on x86: the bits are
   those of the CPU's own instruction (in round-to-nearest, which all here assumes).
   docs/square-root.md proves it, and tests/c/root.c does what of that takes a machine.

   From an estimate y of 1/sqrt(x) come h = y/2 and g = 2x*h, which are near 1/(2 sqrt(x)) and
   sqrt(x). r = 1/2 - g*h tells how near: g + g*r and h + h*r have twice as many right bits,
   h + h*(r + 3/2 r*r) three times as many. At last d = x - g*g, and g + h*d is rounded once.
   Fused operations are asked for by name, so -ffp-contract=off changes nothing.

   Zeros are common and need no branch: with h = 0 all is 0, with the sign of x. Whatever else
   does not fit ends with an h that is too large (x below 2^-90 in float32, 2^-958 in float64),
   infinite, negative or NaN (infinity, NaN, negative numbers, float64 from 2^1023). As unsigned
   integers the bits of all these exceed those of the largest h that is allowed, and then the
   CPU's instruction does the whole vector. There is a least x because the root is wrong where
   d is: when the last bit of g*g is lost to underflow, below 2^-102 and 2^-970. The limits are
   2^12 times that, so that d is hardly ever subnormal, which some CPUs are slow at.

   AVX2 has no function for float64, since it has no estimate: steps from an integer trick were
   slower for its four lanes than the divider. NEON has none at all: its estimate has 8 bits, so
   float32 would take two steps before the last one and float64 three, for four and two lanes;
   on paper that gains nothing over fsqrt, and it was not tried. */
#ifndef FASTADAM_ROOT_H
#define FASTADAM_ROOT_H

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>

#define ROOT_INLINE static inline __attribute__((always_inline))
#define ROOT_RARELY(condition) __builtin_expect(condition, 0)

#if defined(__AVX512F__)

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

#if defined(__AVX2__) && defined(__FMA__)

/* From y = (1 + e) / sqrt(x) with |e| <= 1.5 * 2^-12: all that makers promise of rsqrtps,
   whose bits differ between them. Here, too, g is made anew: carried along, the float before
   4 comes out wrong. */
ROOT_INLINE __m256 root_float32x8_from(__m256 x, __m256 y)
{
    const __m256i most = _mm256_castps_si256(_mm256_set1_ps(0x1p44f));
    const __m256 zero = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_OQ);
    const __m256 twice = _mm256_add_ps(x, x);
    __m256 h = _mm256_andnot_ps(zero, _mm256_castsi256_ps(_mm256_sub_epi32(
        _mm256_castps_si256(y), _mm256_set1_epi32(1 << 23))));
    __m256 g = _mm256_mul_ps(twice, h);
    const __m256 r = _mm256_fnmadd_ps(g, h, _mm256_set1_ps(0.5f));
    const __m256 p = _mm256_fmadd_ps(_mm256_mul_ps(r, _mm256_set1_ps(1.5f)), r, r);
    h = _mm256_fmadd_ps(h, p, h);
    g = _mm256_mul_ps(twice, h);
    const __m256i larger = _mm256_max_epu32(_mm256_castps_si256(h), most);
    if (ROOT_RARELY(_mm256_movemask_epi8(_mm256_cmpeq_epi32(larger, most)) != -1))
        return _mm256_sqrt_ps(x);
    const __m256 d = _mm256_fnmadd_ps(g, g, x);
    return _mm256_fmadd_ps(h, d, g);
}

ROOT_INLINE __m256 root_float32x8(__m256 x)
{
    return root_float32x8_from(x, _mm256_rsqrt_ps(x));
}

#endif
#endif
#endif
