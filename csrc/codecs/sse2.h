/* For vectors.h: SSE2. */
FA_INLINE int any_nan(const real x[])
{
    return _mm_movemask_ps(_mm_cmpunord_ps((__m128)x[0], (__m128)x[1])) != 0;
}
FA_INLINE ints load_halves(const void *from)
{
    return (ints)_mm_unpacklo_epi16(_mm_loadl_epi64(from), _mm_setzero_si128());
}
FA_INLINE ints load_bytes(const uint8_t *from)
{
    int32_t four;
    memcpy(&four, from, sizeof four);
    const __m128i zero = _mm_setzero_si128();
    return (ints)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(four), zero), zero);
}
FA_INLINE void store_halves(void *to, const ints x[]) /* from 0 to 65535 */
{
    const __m128i a = (__m128i)(shifted_left(x[0], 16) >> 16);
    const __m128i b = (__m128i)(shifted_left(x[1], 16) >> 16);
    _mm_storeu_si128(to, _mm_packs_epi32(a, b));
}
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base)
{
    const __m128i from = _mm_set1_epi16((short)base);
    const __m128i a = _mm_sub_epi16(_mm_packs_epi32((__m128i)x[0], (__m128i)x[1]), from);
    const __m128i b = _mm_sub_epi16(_mm_packs_epi32((__m128i)x[2], (__m128i)x[3]), from);
    _mm_storeu_si128((void *)to, _mm_packus_epi16(a, b));
}
