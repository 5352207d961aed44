/* bfloat16, the upper half of a float32. */

/* What halves are compared with, and what is added to them; mostly twice, for both halves of 32
   bits. They are read where GCC 12 cannot see them: it would make them anew for each vector, in
   general registers, and a step would take 8 % longer (AVX-512). */
enum { SIZES, LARGEST, ONE, ROUNDING, STEP, HALF_CONSTANTS };
static const volatile uint32_t half_constants_unseen[HALF_CONSTANTS] = {
    [SIZES] = 0x7FFF7FFF,
    [LARGEST] = 0x7F7F7F7F,
    [ONE] = 0x00010001,
    [ROUNDING] = 0x8000,
    [STEP] = (TOGETHER * FA_LANES * FA_DITHER_STEP_16 & 0xFFFF) * (FA_BYTES == 64 ? 0x10001u : 1u),
};
typedef struct {
    ints of[HALF_CONSTANTS];
} half_constants;

FA_INLINE half_constants spread_half_constants(void)
{
    half_constants all;
    for (int i = 0; i < HALF_CONSTANTS; i++)
        all.of[i] = spread_int((int32_t)half_constants_unseen[i]);
    return all;
}

FA_INLINE void load_bfloat16(const uint16_t *from, real x[])
{
#if FA_BYTES == 64
    join_halves(x, (shorts){0}, *(const unaligned_shorts *)from);
#else
    for (int k = 0; k < TOGETHER; k++)
        x[k] = real_of(shifted_left(load_halves(from + k * FA_LANES), 16));
#endif
}

/* Moments are rounded at random, but the same way each time: up or down with the probabilities
   that make the mean right. Rounded to nearest, a moment that changes in a step by less than half
   the distance between neighbours would never change. Infinities, NaNs and what would become
   infinite keep their upper half. `dithers` then are those of the next numbers. */
#if FA_BYTES == 64

/* The same as below, with all halves of both vectors at once. */
typedef shorts half_dithers;

FA_INLINE half_dithers first_half_dithers(uint32_t first)
{
    uint16_t each[TOGETHER * FA_LANES];
    half_dithers dithers;
    for (int i = 0; i < TOGETHER * FA_LANES; i++)
        each[i] = (uint16_t)(first + (uint32_t)i * FA_DITHER_STEP_16);
    memcpy(&dithers, each, sizeof dithers);
    return dithers;
}

FA_INLINE void store_bfloat16(uint16_t *to, const real x[], half_dithers *dithers,
                              const half_constants *c)
{
    const __m512i random = (__m512i)*dithers;
    const __m512i upper = (__m512i)upper_halves(ints_of(x[0]), ints_of(x[1]));
    const __m512i lower = (__m512i)lower_halves(ints_of(x[0]), ints_of(x[1]));
    const __mmask32 carries = _mm512_cmplt_epu16_mask(_mm512_add_epi16(lower, random), random);
    const __m512i size = _mm512_and_si512(upper, (__m512i)c->of[SIZES]);
    const __mmask32 up = _mm512_mask_cmplt_epi16_mask(carries, size, (__m512i)c->of[LARGEST]);
    _mm512_storeu_si512(to, _mm512_mask_add_epi16(upper, up, upper, (__m512i)c->of[ONE]));
    *dithers = (shorts)_mm512_add_epi16(random, (__m512i)c->of[STEP]);
}

#else

typedef struct {
    ints x[TOGETHER];
} half_dithers;

FA_INLINE half_dithers first_half_dithers(uint32_t first)
{
    uint32_t each[TOGETHER * FA_LANES];
    half_dithers dithers;
    for (int i = 0; i < TOGETHER * FA_LANES; i++)
        each[i] = (first + (uint32_t)i * FA_DITHER_STEP_16) & 0xFFFF;
    memcpy(&dithers, each, sizeof dithers);
    return dithers;
}

FA_INLINE void store_bfloat16(uint16_t *to, const real x[], half_dithers *dithers,
                              const half_constants *c)
{
    const ints largest = shifted_left(c->of[LARGEST], 16);
    ints sums[TOGETHER];
    for (int k = 0; k < TOGETHER; k++) {
        const ints random = dithers->x[k];
        sums[k] = added(ints_of(x[k]), where_less(ints_of(magnitude(x[k])), largest, random));
        dithers->x[k] = added(random, c->of[STEP]) & 0xFFFF;
    }
    store_upper_halves(to, sums);
}

#endif

/* A parameter is rounded to nearest, ties away from zero, and the lower half of its float32
   is kept apart, as a difference: together they are the float32 again. A tie that was rounded
   to even could not be undone.

   Where a user wrote another number, the difference is what the old one left: it adds at most half
   a unit in the last place. Below a zero and above an infinity are the bits of NaNs, so there it is
   left out; a little below an infinity are float32 numbers that are rounded to it. */
#if FA_BYTES >= 32

/* The same as below, with all halves of a vector at once. */
FA_INLINE void load_param_bfloat16(const uint16_t *param, const int16_t *rest, real x[],
                                   const half_constants *c)
{
    const shorts upper = *(const unaligned_shorts *)param;
    const shorts lower = *(const unaligned_shorts *)rest;
    const shorts size = upper & (shorts)c->of[SIZES], below = lower >> 15;
    /* negative for a zero, and for what is not finite */
    const shorts not_below = size - (shorts)c->of[ONE], not_above = (shorts)c->of[LARGEST] - size;
    const shorts wrong = ((not_below & below) | (not_above & ~below)) >> 15;
    join_halves(x, lower & ~wrong, upper + (below & ~wrong));
}

#else

FA_INLINE void load_param_bfloat16(const uint16_t *param, const int16_t *rest, real x[],
                                   const half_constants *c)
{
    (void)c;
    for (int k = 0; k < TOGETHER; k++) {
        const ints upper = load_halves(param + k * FA_LANES);
        const ints lower = shifted_left(load_halves(rest + k * FA_LANES), 16) >> 16;
        const ints size = upper & 0x7FFF, below = lower >> 15;
        const ints not_below = size - 1, not_above = 0x7F7F - size;
        const ints wrong = ((not_below & below) | (not_above & ~below)) >> 15;
        x[k] = real_of(added(shifted_left(upper, 16), lower & ~wrong));
    }
}

#endif

FA_INLINE void store_param_bfloat16(uint16_t *param, int16_t *rest, const real x[],
                                    const half_constants *c)
{
    const ints infinite = spread_int(INFINITE);
    ints kept[TOGETHER], rounded[TOGETHER];
    for (int k = 0; k < TOGETHER; k++)
        kept[k] = ints_of(x[k]);
    if (any_nan(x)) /* which stays one; there hardly is any, and the test costs less */
        for (int k = 0; k < TOGETHER; k++) {
            const ints quiet = (kept[k] | 0x00400000) & (int32_t)0xFFFF0000;
            kept[k] = choose_less(infinite, ints_of(magnitude(x[k])), quiet, kept[k]);
        }
    for (int k = 0; k < TOGETHER; k++)
        rounded[k] = added(kept[k], c->of[ROUNDING]);
    store_upper_halves(param, rounded);
    store_lower_halves(rest, kept);
}

static void decode_bfloat16(float *to, const void *from, int64_t n, const fa_units *units)
{
    (void)units;
    for (int64_t i = 0; i < n; i += TOGETHER * FA_LANES) {
        real x[TOGETHER];
        load_bfloat16((const uint16_t *)from + i, x);
        store_all(to + i, x);
    }
}
