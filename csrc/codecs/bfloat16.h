/* bfloat16, the upper half of a float32.

   Moments are rounded at random, but the same way each time: up or down with the
   probabilities that make the mean right. Rounded to nearest, a moment that changes in a step
   by less than half the distance between neighbours would never change. */
static void decode_bfloat16(float *to, const void *from, int64_t n, const fa_units *units)
{
    const uint16_t *codes = from;
    (void)units;
    for (; n >= BLOCK; n -= BLOCK, codes += BLOCK, to += BLOCK)
        for (int i = 0; i < BLOCK; i++)
            to[i] = number_of((uint32_t)codes[i] << 16);
    for (int64_t i = 0; i < n; i++)
        to[i] = number_of((uint32_t)codes[i] << 16);
}

static void encode_bfloat16(void *to, const float *from, int64_t n, const fa_units *units,
                            uint32_t dither)
{
    /* Infinities, NaNs and what would become infinite keep their upper half. */
    const ints largest = spread_int(0x7F7F0000);
    ints dithers[2] = {first_dithers(dither), first_dithers(dither_at(dither, FA_LANES))};
    uint16_t *codes = to;
    (void)units;
    for (; n > 0; n -= BLOCK, codes += BLOCK, from += BLOCK)
        for (int i = 0; i < BLOCK; i += 2 * FA_LANES) {
            ints halves[2];
            for (int k = 0; k < 2; k++) {
                const real x = load(from + i + k * FA_LANES);
                const ints random = shifted_right(dithers[k], 16);
                const ints up = where_less(ints_of(magnitude(x)), largest, random);
                halves[k] = shifted_right(added(ints_of(x), up), 16);
                dithers[k] = later_dithers(dithers[k], 2);
            }
            store_halves(codes + i, halves[0], halves[1]);
        }
}

/* A parameter is rounded to nearest, ties away from zero, and the lower half of its float32
   is kept apart, as a difference: together they are the float32 again. A tie that was rounded
   to even could not be undone.

   Where a user wrote another number, the difference is what the old one left: it adds at most half
   a unit in the last place. A zero stays one, and nothing is added to an infinity, of which it
   would make a NaN; less than that, it is one of the float32 numbers that are rounded to it. */
#if FA_BYTES >= 32

/* The same as below, with all halves of a vector at once. */
static void decode_param_bfloat16(float *to, const void *param, const void *rest, int64_t n)
{
    for (int64_t i = 0; i < n; i += 2 * FA_LANES) {
        const shorts upper = *(const unaligned_shorts *)((const uint16_t *)param + i);
        const shorts lower = *(const unaligned_shorts *)((const int16_t *)rest + i);
        const shorts size = upper & 0x7FFF, below = lower >> 15;
        /* negative for a zero, and for what is not finite */
        const shorts not_below = size - 1, not_above = 0x7F7F - size;
        const shorts wrong = ((not_below & below) | (not_above & ~below)) >> 15;
        join_halves(to + i, lower & ~wrong, upper + (below & ~wrong));
    }
}

static void encode_param_bfloat16(void *param, void *rest, const float *from, int64_t n)
{
    const ints infinite = spread_int(INFINITE), half = spread_int(0x8000);
    for (int64_t i = 0; i < n; i += 2 * FA_LANES) {
        ints kept[2];
        for (int k = 0; k < 2; k++) {
            const real x = load(from + i + k * FA_LANES);
            const ints quiet = (ints_of(x) | 0x00400000) & (int32_t)0xFFFF0000;
            kept[k] = choose_less(infinite, ints_of(magnitude(x)), quiet, ints_of(x));
        }
        *(unaligned_shorts *)((uint16_t *)param + i) =
            upper_halves(added(kept[0], half), added(kept[1], half));
        *(unaligned_shorts *)((int16_t *)rest + i) = lower_halves(kept[0], kept[1]);
    }
}

#else

static void decode_param_bfloat16(float *to, const void *param, const void *rest, int64_t n)
{
    const uint16_t *upper = param;
    const int16_t *lower = rest;
    for (; n > 0; n -= BLOCK, upper += BLOCK, lower += BLOCK, to += BLOCK)
        for (int i = 0; i < BLOCK; i++) {
            const int32_t size = upper[i] & 0x7FFF;
            const int32_t least = size == 0 ? 0 : INT16_MIN, most = size < 0x7F80 ? INT16_MAX : 0;
            const int32_t difference = smaller(larger(lower[i], least), most);
            to[i] = number_of(((uint32_t)upper[i] << 16) + (uint32_t)difference);
        }
}

static void encode_param_bfloat16(void *param, void *rest, const float *from, int64_t n)
{
    uint16_t *upper = param;
    int16_t *lower = rest;
    for (; n > 0; n -= BLOCK, upper += BLOCK, lower += BLOCK, from += BLOCK)
        for (int i = 0; i < BLOCK; i++) {
            const uint32_t pattern = bits_of(from[i]);
            const uint32_t quiet = (pattern | 0x00400000) & 0xFFFF0000; /* a NaN stays one */
            const uint32_t kept = (pattern & MAGNITUDE) > INFINITE ? quiet : pattern;
            upper[i] = (uint16_t)((kept + 0x8000) >> 16);
            lower[i] = (int16_t)(uint16_t)kept;
        }
}

#endif
