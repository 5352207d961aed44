/* For vectors.h: AVX2. */
FA_INLINE ints larger_ints(ints a, ints b)
{
    return (ints)_mm256_max_epi32((__m256i)a, (__m256i)b);
}
FA_INLINE int any_nan(const real x[])
{
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)x[0], (__m256)x[1], _CMP_UNORD_Q)) != 0;
}
FA_INLINE int32_t largest_of(ints x)
{
    __m128i y = _mm256_castsi256_si128((__m256i)x);
    y = _mm_max_epi32(y, _mm256_extracti128_si256((__m256i)x, 1));
    y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(y, _mm_shuffle_epi32(y, 0xB1)));
}
FA_INLINE ints load_bytes(const uint8_t *from)
{
    return (ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)from));
}
FA_INLINE ints load_halves(const void *from)
{
    return (ints)_mm256_cvtepu16_epi32(_mm_loadu_si128(from));
}
FA_INLINE void store_halves(void *to, const ints x[]) /* from 0 to 65535 */
{
    const __m256i packed = _mm256_packus_epi32((__m256i)x[0], (__m256i)x[1]);
    _mm256_storeu_si256(to, _mm256_permute4x64_epi64(packed, 0xD8));
}
FA_INLINE void join_halves(real x[2], shorts lower, shorts upper)
{
    const __m256i a = _mm256_unpacklo_epi16((__m256i)lower, (__m256i)upper);
    const __m256i b = _mm256_unpackhi_epi16((__m256i)lower, (__m256i)upper);
    x[0] = (real)_mm256_permute2x128_si256(a, b, 0x20);
    x[1] = (real)_mm256_permute2x128_si256(a, b, 0x31);
}
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i from = _mm256_set1_epi16((short)base);
    const __m256i a = _mm256_sub_epi16(_mm256_packs_epi32((__m256i)x[0], (__m256i)x[1]), from);
    const __m256i b = _mm256_sub_epi16(_mm256_packs_epi32((__m256i)x[2], (__m256i)x[3]), from);
    const __m256i packed = _mm256_packus_epi16(a, b);
    _mm256_storeu_si256((void *)to, _mm256_permutevar8x32_epi32(packed, order));
}
