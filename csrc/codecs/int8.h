/* Moments in 8 bits: blocks of 64 numbers, of which each is a byte that scales them and then a
   byte for each, its code. They are rounded at random, as in bfloat16.h.

   The scale is even. Where a block has numbers that are too large or not finite, it is encoded
   with zeros and large numbers in their place, and 1 is added to the scale: then the largest
   code stands for what is not finite. */
enum {
    CODE_BYTES = BLOCK + 1,
    VECTORS = BLOCK / FA_LANES,
    MARKED = 1, /* added to a block's scale */

    POSITIVE_SHIFT = 20, /* of a float32's bits, those that a code lacks */
    POSITIVE_POWERS = 31, /* of two, that a block's largest number can be above its unit */
    POSITIVE_ROOM = (1 << POSITIVE_SHIFT) - 1, /* below the next power, for rounding up */
    POSITIVE_LEAST = 4, /* scale, for which no code stands for a subnormal number */
    POSITIVE_MOST = 0x7F6FFFFF, /* the bits of the largest number that has room */
    POSITIVE_LARGEST = 255,

    SIGNED_SHIFT = 19,
    SIGNED_BASE = 0x3C000000, /* the bits of 2^-7, whose exponent ends with three zeros */
    SIGNED_ROOM = 0x08FFFF, /* what 247 lacks of 256 in the last place: 127 is its code */
    SIGNED_LEAST = 12, /* scale, for which no code stands for a subnormal number */
    SIGNED_MOST = 0x6F770000, /* the largest that is not so large with any unit */
    SIGNED_LARGEST = 127
};

/* Numbers without those that a block cannot hold. */
static void tame(float *to, const float *from, uint32_t most)
{
    for (int i = 0; i < BLOCK; i++) {
        const uint32_t pattern = bits_of(from[i]), size = pattern & MAGNITUDE;
        const uint32_t tamed = size >= INFINITE ? 0 : size < most ? size : most;
        to[i] = number_of(tamed | (pattern & ~(uint32_t)MAGNITUDE));
    }
}

/* Marks among the codes of tamed numbers those that were not finite. */
static void mark(uint8_t *codes, const float *from, uint8_t largest)
{
    for (int i = 0; i < BLOCK; i++) {
        const uint8_t size = codes[i] & largest, most = (uint8_t)(largest - 1);
        const uint8_t kept = size < most ? size : most;
        const int is_finite = (bits_of(from[i]) & MAGNITUDE) < INFINITE;
        codes[i] = is_finite ? (uint8_t)((codes[i] & ~largest) | kept) : largest;
    }
}

/* Numbers that are not negative, such as second moments. In a unit of the block's own, a power of
   two, 1 is added to them; the sum's exponent and three bits of its mantissa are the code: steps
   are even for numbers below the unit, and proportional beyond. What is positive is never stored
   as zero, or a step would divide by that; what is negative is. A NaN becomes infinite. */
FA_INLINE real load_positive8(const uint8_t *codes, uint8_t scale)
{
    const ints unit = spread_int((scale & ~MARKED) * (1 << 23)), code = load_bytes(codes);
    const ints sum = added(shifted_left(code, POSITIVE_SHIFT), unit);
    const real x = real_of(sum) - real_of(unit);
    if (scale & MARKED)
        return where_equal(code, spread_int(POSITIVE_LARGEST), real_of(spread_int(INFINITE)), x);
    return x;
}

static void decode_positive8(float *to, const void *from, int64_t n, const fa_units *units)
{
    const uint8_t *block = from;
    (void)units;
    for (; n > 0; n -= BLOCK, to += BLOCK, block += CODE_BYTES) {
        const uint8_t scale = block[0];
        for (int i = 0; i < BLOCK; i += FA_LANES)
            store(to + i, load_positive8(block + 1 + i, scale));
    }
}

static int32_t positive_top(const float *from)
{
    ints top = spread_int(0);
    for (int i = 0; i < BLOCK; i += FA_LANES)
        top = larger_ints(top, ints_of(magnitude(load(from + i))));
    return largest_of(top);
}

static void encode_positive8(void *to, const float *from, int64_t n, const fa_units *units,
                             uint32_t dither)
{
    float tamed[BLOCK];
    uint8_t *block = to;
    (void)units;
    for (int64_t i = 0; i < n; i += BLOCK, block += CODE_BYTES) {
        int32_t top = positive_top(from + i);
        const int marked = top > POSITIVE_MOST;
        if (marked) {
            tame(tamed, from + i, POSITIVE_MOST);
            top = positive_top(tamed);
        }
        const int32_t needed = ((top + POSITIVE_ROOM) >> 23) - POSITIVE_POWERS;
        block[0] = (uint8_t)((larger(needed + 1, POSITIVE_LEAST) & ~1) | marked);
    }
    block = to;
    ints dithers[4];
    for (int k = 0; k < 4; k++)
        dithers[k] = first_dithers(dither_at(dither, k * FA_LANES));
    const ints zero = spread_int(0);
    for (; n > 0; n -= BLOCK, from += BLOCK, block += CODE_BYTES) {
        const int32_t scale = block[0] & ~MARKED;
        const real unit = real_of(spread_int(scale * (1 << 23)));
        const ints least = spread_int((scale - 3) * (1 << 23)); /* of the code 1 */
        const float *numbers = from;
        if (block[0] & MARKED) {
            tame(tamed, from, POSITIVE_MOST);
            numbers = tamed;
        }
        for (int i = 0; i < BLOCK; i += 4 * FA_LANES) {
            ints codes[4];
            for (int k = 0; k < 4; k++) {
                const ints size = ints_of(load(numbers + i + k * FA_LANES));
                const ints raised = where_less(zero, size, larger_ints(size, least));
                const ints sum = added(ints_of(real_of(raised) + unit),
                                       shifted_right(dithers[k], 32 - POSITIVE_SHIFT));
                codes[k] = shifted_right(sum, POSITIVE_SHIFT);
                dithers[k] = later_dithers(dithers[k], 4);
            }
            store_bytes(block + 1 + i, codes, scale << (23 - POSITIVE_SHIFT));
        }
        if (block[0] & MARKED)
            mark(block + 1, from, POSITIVE_LARGEST);
    }
}

/* Powers of two, as what is added to a float32's bits: by how many the numbers with these codes,
   or their roots, are above the smallest that a code stands for. */
FA_INLINE ints units_of(const uint8_t *codes, const int is_root)
{
    return is_root ? shifted_left(load_bytes(codes) & 0xF0, 23 - 4)
                   : shifted_left(load_bytes(codes) & 0xF8, 23 - 3);
}

/* Signed numbers, each in a unit of its own. For a first moment that is near the root of the second
   moment, by which it will be divided: so the error is small beside what it is divided by, however
   different a block's numbers are. The scale is that of all units; of numbers in them the codes
   are made as above, with four bits of the mantissa. A code's upper bit is the sign. What is not
   finite becomes NaN. */
FA_INLINE real load_signed8(const uint8_t *codes, uint8_t scale, ints units)
{
    const ints base = spread_int(SIGNED_BASE), code = load_bytes(codes);
    const ints power = added(spread_int((scale & ~MARKED) * (1 << 23)), units);
    const ints sum = shifted_left(code, SIGNED_SHIFT) | base; /* which has a 1 under the sign */
    const ints size = ints_of((real_of(sum) - real_of(base)) * real_of(power));
    const real x = real_of(size | (shifted_left(code, 24) & ~MAGNITUDE));
    if (scale & MARKED)
        return where_equal(code & SIGNED_LARGEST, spread_int(SIGNED_LARGEST),
                           real_of(spread_int(QUIET_NAN)), x);
    return x;
}

FA_INLINE void decode_signed(float *to, const uint8_t *block, int64_t n, const fa_units *units,
                             const int is_root)
{
    const uint8_t *beside = units->blocks;
    for (; n > 0; n -= BLOCK, to += BLOCK, block += CODE_BYTES, beside += units->stride) {
        const uint8_t scale = block[0];
        for (int i = 0; i < BLOCK; i += FA_LANES)
            store(to + i, load_signed8(block + 1 + i, scale, units_of(beside + 1 + i, is_root)));
    }
}

static void decode_signed8(float *to, const void *from, int64_t n, const fa_units *units)
{
    if (units->is_root)
        decode_signed(to, from, n, units, 1);
    else
        decode_signed(to, from, n, units, 0);
}

/* The power of two of the largest number in its unit. What is not finite is above SIGNED_MOST, for
   all units are below 2^32. The units are noted. */
FA_INLINE int32_t signed_top(const float *from, ints units[])
{
    ints top = spread_int(0);
    for (int i = 0; i < VECTORS; i++)
        top = larger_ints(top, ints_of(magnitude(load(from + i * FA_LANES))) - units[i]);
    return largest_of(top);
}

FA_INLINE void encode_signed(uint8_t *block, const float *from, int64_t n, const fa_units *units,
                             uint32_t dither, const int is_root)
{
    enum { BLOCKS = 8 }; /* at a time: what one waits for, others need not */
    const real base = real_of(spread_int(SIGNED_BASE));
    const uint8_t *beside = units->blocks + 1;
    ints dithers[4], powers[BLOCKS][VECTORS];
    for (int k = 0; k < 4; k++)
        dithers[k] = first_dithers(dither_at(dither, k * FA_LANES));
    while (n > 0) {
        const int blocks = n < BLOCKS * BLOCK ? (int)(n / BLOCK) : BLOCKS;
        float tamed[BLOCK];
        for (int b = 0; b < blocks; b++, beside += units->stride) {
            for (int i = 0; i < VECTORS; i++)
                powers[b][i] = units_of(beside + i * FA_LANES, is_root);
            int32_t top = signed_top(from + b * BLOCK, powers[b]);
            const int marked = top > SIGNED_MOST;
            if (marked) {
                tame(tamed, from + b * BLOCK, SIGNED_MOST);
                top = signed_top(tamed, powers[b]);
            }
            const int32_t scale = larger(((top + SIGNED_ROOM) >> 23) + 1, SIGNED_LEAST) & ~1;
            block[b * CODE_BYTES] = (uint8_t)(scale | marked);
        }
        for (int b = 0; b < blocks; b++, from += BLOCK, n -= BLOCK, block += CODE_BYTES) {
            const int marked = block[0] & MARKED;
            const ints inverse = spread_int((254 - (block[0] & ~MARKED)) * (1 << 23));
            const float *numbers = marked ? tamed : from;
            if (marked)
                tame(tamed, from, SIGNED_MOST);
            for (int i = 0; i < VECTORS; i += 4) {
                ints codes[4];
                for (int k = 0; k < 4; k++) {
                    const real x = load(numbers + (i + k) * FA_LANES);
                    const real scaled = magnitude(x) * real_of(inverse - powers[b][i + k]);
                    const ints random = shifted_right(dithers[k], 32 - SIGNED_SHIFT);
                    const ints sum = added(ints_of(scaled + base), random);
                    /* The bit above the code's is set in any sum: it becomes the sign. */
                    const ints sign = shifted_right(ints_of(x), 24) | SIGNED_LARGEST;
                    codes[k] = shifted_right(sum, SIGNED_SHIFT) & sign;
                    dithers[k] = later_dithers(dithers[k], 4);
                }
                store_bytes(block + 1 + i * FA_LANES, codes, 0);
            }
            if (marked)
                mark(block + 1, from, SIGNED_LARGEST);
        }
    }
}

static void encode_signed8(void *to, const float *from, int64_t n, const fa_units *units,
                           uint32_t dither)
{
    if (units->is_root)
        encode_signed(to, from, n, units, dither, 1);
    else
        encode_signed(to, from, n, units, dither, 0);
}
