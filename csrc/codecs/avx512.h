/* For vectors.h: AVX-512. */
#define COUNT _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
FA_INLINE __mmask16 less(ints a, ints b) { return _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b); }
FA_INLINE ints where_less(ints a, ints b, ints x) /* x where a < b, 0 elsewhere */
{
    return (ints)_mm512_maskz_mov_epi32(less(a, b), (__m512i)x);
}
FA_INLINE ints choose_less(ints a, ints b, ints x, ints y) /* y elsewhere */
{
    return (ints)_mm512_mask_mov_epi32((__m512i)y, less(a, b), (__m512i)x);
}
FA_INLINE real where_equal(ints a, ints b, real x, real y)
{
    const __mmask16 equal = _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b);
    return (real)_mm512_mask_mov_ps((__m512)y, equal, (__m512)x);
}
FA_INLINE ints larger_ints(ints a, ints b)
{
    return (ints)_mm512_max_epi32((__m512i)a, (__m512i)b);
}
FA_INLINE int any_nan(const real x[])
{
    return _mm512_cmp_ps_mask((__m512)x[0], (__m512)x[1], _CMP_UNORD_Q) != 0;
}
FA_INLINE int32_t largest_of(ints x) { return _mm512_reduce_max_epi32((__m512i)x); }
FA_INLINE ints load_bytes(const uint8_t *from)
{
    return (ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from));
}
FA_INLINE ints load_halves(const void *from)
{
    return (ints)_mm512_cvtepu16_epi32(_mm256_loadu_si256(from));
}
FA_INLINE void store_halves(void *to, const ints x[]) /* from 0 to 65535 */
{
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i packed = _mm512_packus_epi32((__m512i)x[0], (__m512i)x[1]);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, packed));
}
/* From lower and upper halves to numbers, and back. */
FA_INLINE void join_halves(real x[2], shorts lower, shorts upper)
{
    const __m512i i = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_set1_epi32(0x00010001), COUNT),
                                       _mm512_set1_epi32(0x00200000));
    const __m512i j = _mm512_add_epi32(i, _mm512_set1_epi32(0x00100010));
    x[0] = (real)_mm512_permutex2var_epi16((__m512i)lower, i, (__m512i)upper);
    x[1] = (real)_mm512_permutex2var_epi16((__m512i)lower, j, (__m512i)upper);
}
FA_INLINE shorts upper_halves(ints a, ints b)
{
    const __m512i odd = _mm512_add_epi32(
        _mm512_mullo_epi32(_mm512_set1_epi32(0x00040004), COUNT), _mm512_set1_epi32(0x00030001));
    return (shorts)_mm512_permutex2var_epi16((__m512i)a, odd, (__m512i)b);
}
FA_INLINE shorts lower_halves(ints a, ints b)
{
    const __m512i even = _mm512_add_epi32(
        _mm512_mullo_epi32(_mm512_set1_epi32(0x00040004), COUNT), _mm512_set1_epi32(0x00020000));
    return (shorts)_mm512_permutex2var_epi16((__m512i)a, even, (__m512i)b);
}
FA_INLINE void store_upper_halves(void *to, const ints x[])
{
    *(unaligned_shorts *)to = upper_halves(x[0], x[1]);
}
FA_INLINE void store_lower_halves(void *to, const ints x[])
{
    *(unaligned_shorts *)to = lower_halves(x[0], x[1]);
}
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base) /* x - base, from 0 to 255 */
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i from = _mm512_set1_epi16((short)base);
    const __m512i a = _mm512_sub_epi16(_mm512_packs_epi32((__m512i)x[0], (__m512i)x[1]), from);
    const __m512i b = _mm512_sub_epi16(_mm512_packs_epi32((__m512i)x[2], (__m512i)x[3]), from);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(a, b)));
}
