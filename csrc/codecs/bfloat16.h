/* bfloat16, the upper half of a float32. */
FA_INLINE void load_bfloat16(const uint16_t *from, real x[])
{
    for (int k = 0; k < TOGETHER; k++)
        x[k] = real_of(shifted_left(load_halves(from + k * FA_LANES), 16));
}

/* Moments are rounded at random, but the same way each time: up or down with the probabilities
   that make the mean right. Rounded to nearest, a moment that changes in a step by less than half
   the distance between neighbours would never change. Infinities, NaNs and what would become
   infinite keep their upper half. */
FA_INLINE void store_bfloat16(uint16_t *to, const real x[], const ints dithers[])
{
    const ints largest = spread_int(0x7F7F0000);
    ints sums[TOGETHER];
    for (int k = 0; k < TOGETHER; k++) {
        const ints random = shifted_right(dithers[k], 16);
        sums[k] = added(ints_of(x[k]), where_less(ints_of(magnitude(x[k])), largest, random));
    }
    store_upper_halves(to, sums);
}

/* A parameter is rounded to nearest, ties away from zero, and the lower half of its float32
   is kept apart, as a difference: together they are the float32 again. A tie that was rounded
   to even could not be undone.

   Where a user wrote another number, the difference is what the old one left: it adds at most half
   a unit in the last place. A zero stays one, and nothing is added to an infinity, of which it
   would make a NaN; less than that, it is one of the float32 numbers that are rounded to it. */
#if FA_BYTES == 64

/* The same as below, with all halves of a vector at once. */
FA_INLINE void load_param_bfloat16(const uint16_t *param, const int16_t *rest, real x[])
{
    const shorts upper = *(const unaligned_shorts *)param;
    const shorts lower = *(const unaligned_shorts *)rest;
    const shorts size = upper & 0x7FFF, below = lower >> 15;
    /* negative for a zero, and for what is not finite */
    const shorts not_below = size - 1, not_above = 0x7F7F - size;
    const shorts wrong = ((not_below & below) | (not_above & ~below)) >> 15;
    join_halves(x, lower & ~wrong, upper + (below & ~wrong));
}

#else

FA_INLINE void load_param_bfloat16(const uint16_t *param, const int16_t *rest, real x[])
{
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

FA_INLINE void store_param_bfloat16(uint16_t *param, int16_t *rest, const real x[])
{
    const ints infinite = spread_int(INFINITE), half = spread_int(0x8000);
    ints kept[TOGETHER], rounded[TOGETHER];
    for (int k = 0; k < TOGETHER; k++)
        kept[k] = ints_of(x[k]);
    if (any_nan(x)) /* which stays one; there hardly is any, and the test costs less */
        for (int k = 0; k < TOGETHER; k++) {
            const ints quiet = (kept[k] | 0x00400000) & (int32_t)0xFFFF0000;
            kept[k] = choose_less(infinite, ints_of(magnitude(x[k])), quiet, kept[k]);
        }
    for (int k = 0; k < TOGETHER; k++)
        rounded[k] = added(kept[k], half);
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
