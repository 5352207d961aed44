/* What codecs compute with besides vector.h: vectors of the 32 bits of numbers, and their way from
   and to narrower integers. Without vectors, all of them are one number. */
enum {
    BLOCK = FA_CODE_BLOCK,
    MAGNITUDE = 0x7FFFFFFF, /* of a float32's bits, all but the sign */
    INFINITE = 0x7F800000,
    QUIET_NAN = 0x7FC00000
};

static inline int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

#if FA_BYTES

typedef bits ints;
typedef ints unaligned_ints __attribute__((aligned(4), may_alias));
typedef uint32_t naturals __attribute__((vector_size(FA_BYTES)));
typedef int16_t shorts __attribute__((vector_size(FA_BYTES)));
typedef shorts unaligned_shorts __attribute__((aligned(2), may_alias));
typedef uint8_t few_bytes __attribute__((vector_size(FA_LANES), aligned(1), may_alias));
typedef uint16_t few_halves __attribute__((vector_size(2 * FA_LANES), aligned(2), may_alias));

FA_INLINE ints ints_of(real x) { return (ints)x; }
FA_INLINE real real_of(ints x) { return (real)x; }
FA_INLINE ints load_ints(const void *from) { return *(const unaligned_ints *)from; }
FA_INLINE ints spread_int(int32_t x) { return x - (ints){0}; }
/* Zeros come in, and nothing overflows. */
FA_INLINE ints shifted_right(ints x, int by) { return (ints)((naturals)x >> by); }
FA_INLINE ints shifted_left(ints x, int by) { return (ints)((naturals)x << by); }
FA_INLINE ints added(ints a, ints b) { return (ints)((naturals)a + (naturals)b); }

#if FA_BYTES == 64
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
FA_INLINE int32_t largest_of(ints x) { return _mm512_reduce_max_epi32((__m512i)x); }
FA_INLINE ints load_bytes(const uint8_t *from)
{
    return (ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from));
}
FA_INLINE ints load_halves(const void *from)
{
    return (ints)_mm512_cvtepu16_epi32(_mm256_loadu_si256(from));
}
FA_INLINE void store_halves(void *to, ints a, ints b) /* a and b, from 0 to 65535 */
{
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i packed = _mm512_packus_epi32((__m512i)a, (__m512i)b);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, packed));
}
/* From lower and upper halves to numbers, and back. */
FA_INLINE void join_halves(float *to, shorts lower, shorts upper)
{
    const __m512i i = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_set1_epi32(0x00010001), COUNT),
                                       _mm512_set1_epi32(0x00200000));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16((__m512i)lower, i, (__m512i)upper));
    const __m512i j = _mm512_add_epi32(i, _mm512_set1_epi32(0x00100010));
    _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16((__m512i)lower, j, (__m512i)upper));
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
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base) /* x - base, from 0 to 255 */
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i from = _mm512_set1_epi16((short)base);
    const __m512i a = _mm512_sub_epi16(_mm512_packs_epi32((__m512i)x[0], (__m512i)x[1]), from);
    const __m512i b = _mm512_sub_epi16(_mm512_packs_epi32((__m512i)x[2], (__m512i)x[3]), from);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(a, b)));
}
#else
FA_INLINE ints where_less(ints a, ints b, ints x) { return (a < b) & x; }
FA_INLINE ints choose_less(ints a, ints b, ints x, ints y)
{
    return (ints)select(a < b, (real)x, (real)y);
}
FA_INLINE real where_equal(ints a, ints b, real x, real y) { return select(a == b, x, y); }
#if FA_BYTES == 32
FA_INLINE ints larger_ints(ints a, ints b)
{
    return (ints)_mm256_max_epi32((__m256i)a, (__m256i)b);
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
FA_INLINE void store_halves(void *to, ints a, ints b)
{
    const __m256i packed = _mm256_packus_epi32((__m256i)a, (__m256i)b);
    _mm256_storeu_si256(to, _mm256_permute4x64_epi64(packed, 0xD8));
}
FA_INLINE void join_halves(float *to, shorts lower, shorts upper)
{
    const __m256i a = _mm256_unpacklo_epi16((__m256i)lower, (__m256i)upper);
    const __m256i b = _mm256_unpackhi_epi16((__m256i)lower, (__m256i)upper);
    _mm256_storeu_si256((void *)to, _mm256_permute2x128_si256(a, b, 0x20));
    _mm256_storeu_si256((void *)(to + 8), _mm256_permute2x128_si256(a, b, 0x31));
}
FA_INLINE shorts upper_halves(ints a, ints b)
{
    const ints c = shifted_right(a, 16), d = shifted_right(b, 16);
    const __m256i packed = _mm256_packus_epi32((__m256i)c, (__m256i)d);
    return (shorts)_mm256_permute4x64_epi64(packed, 0xD8);
}
FA_INLINE shorts lower_halves(ints a, ints b)
{
    const __m256i packed = _mm256_packus_epi32((__m256i)(a & 0xFFFF), (__m256i)(b & 0xFFFF));
    return (shorts)_mm256_permute4x64_epi64(packed, 0xD8);
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
#else
FA_INLINE ints larger_ints(ints a, ints b) { return choose_less(a, b, b, a); }
FA_INLINE int32_t largest_of(ints x)
{
    return larger(larger(x[0], x[1]), larger(x[2], x[3]));
}
#ifdef __SSE2__
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
FA_INLINE void store_halves(void *to, ints a, ints b)
{
    const __m128i c = (__m128i)(shifted_left(a, 16) >> 16);
    const __m128i d = (__m128i)(shifted_left(b, 16) >> 16);
    _mm_storeu_si128(to, _mm_packs_epi32(c, d));
}
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base)
{
    const __m128i from = _mm_set1_epi16((short)base);
    const __m128i a = _mm_sub_epi16(_mm_packs_epi32((__m128i)x[0], (__m128i)x[1]), from);
    const __m128i b = _mm_sub_epi16(_mm_packs_epi32((__m128i)x[2], (__m128i)x[3]), from);
    _mm_storeu_si128((void *)to, _mm_packus_epi16(a, b));
}
#else
FA_INLINE ints load_bytes(const uint8_t *from)
{
    return __builtin_convertvector(*(const few_bytes *)from, ints);
}
FA_INLINE ints load_halves(const void *from)
{
    return __builtin_convertvector(*(const few_halves *)from, ints);
}
FA_INLINE void store_halves(void *to, ints a, ints b)
{
    few_halves *halves = to;
    halves[0] = __builtin_convertvector(a, few_halves);
    halves[1] = __builtin_convertvector(b, few_halves);
}
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base)
{
    for (int i = 0; i < 4; i++)
        *(few_bytes *)(to + i * FA_LANES) = __builtin_convertvector(x[i] - base, few_bytes);
}
#endif
#endif
#endif

#else

typedef int32_t ints;
FA_INLINE ints load_ints(const void *from) { return *(const int32_t *)from; }
FA_INLINE ints ints_of(real x)
{
    int32_t to;
    memcpy(&to, &x, sizeof to);
    return to;
}
FA_INLINE real real_of(ints x)
{
    real to;
    memcpy(&to, &x, sizeof to);
    return to;
}
FA_INLINE ints spread_int(int32_t x) { return x; }
FA_INLINE ints shifted_right(ints x, int by) { return (ints)((uint32_t)x >> by); }
FA_INLINE ints shifted_left(ints x, int by) { return (ints)((uint32_t)x << by); }
FA_INLINE ints added(ints a, ints b) { return (ints)((uint32_t)a + (uint32_t)b); }
FA_INLINE ints where_less(ints a, ints b, ints x) { return a < b ? x : 0; }
FA_INLINE ints choose_less(ints a, ints b, ints x, ints y) { return a < b ? x : y; }
FA_INLINE real where_equal(ints a, ints b, real x, real y) { return a == b ? x : y; }
FA_INLINE ints larger_ints(ints a, ints b) { return larger(a, b); }
FA_INLINE int32_t largest_of(ints x) { return x; }
FA_INLINE ints load_bytes(const uint8_t *from) { return *from; }
FA_INLINE ints load_halves(const void *from) { return *(const uint16_t *)from; }
FA_INLINE void store_halves(void *to, ints a, ints b)
{
    ((uint16_t *)to)[0] = (uint16_t)a;
    ((uint16_t *)to)[1] = (uint16_t)b;
}
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(x[i] - base);
}

#endif

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

FA_INLINE int any(ints x) /* whether a bit is set */
{
    int32_t each[FA_LANES], all = 0;
    memcpy(each, &x, sizeof each);
    for (int i = 0; i < FA_LANES; i++)
        all |= each[i];
    return all != 0;
}
