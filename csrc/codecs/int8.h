/* Moments in 8 bits: blocks of 64 numbers, of which each is a byte that scales them and then a
   byte for each, its code. They are rounded at random, as in bfloat16.h.

   In both kinds of blocks nearly all are finite and of a moderate size, for which the loops are
   written; the others are encoded one by one. */
enum {
    CODE_BYTES = BLOCK + 1,
    MOST = 0x7F4FFFFF, /* the bits of 2.8e38: what is larger and finite is stored as this */

    POSITIVE_SHIFT = 20,  /* of a float32's bits, those that a code lacks */
    POSITIVE_POWERS = 31, /* of two, that a code can be below the block's largest number */
    POSITIVE_INFINITE = 255,
    /* What brings the largest number to the next power of two, unless that has room for its code
       to be rounded up and to stay below the one for infinity. */
    POSITIVE_ROOM = 2 * (1 << POSITIVE_SHIFT) - 1,

    SIGNED_SHIFT = 19,
    SIGNED_NAN = 127,
    SIGNED_POWER = 6, /* of two, that a block's largest scaled number has at least */
    SIGNED_ROOM = 1 << 21, /* as above */
    SIGNED_LEAST = 5, SIGNED_LARGEST = 218 /* scales, for which no product is subnormal or infinite */
};

/* Numbers that are not negative, such as second moments. A code is the exponent and three bits of
   the mantissa, counted from 31 powers of two below the block's largest number. What is not zero
   is never stored as zero, or a step would divide by that. A NaN becomes infinite. */
static void decode_positive8(float *to, const void *from, int64_t n, const uint8_t *units)
{
    const uint8_t *block = from;
    (void)units;
    for (; n > 0; n -= BLOCK, to += BLOCK, block += CODE_BYTES) {
        const int32_t base = (block[0] - POSITIVE_POWERS) * (1 << 23);
        for (int i = 0; i < BLOCK; i++) {
            const int32_t code = block[1 + i], bits = code * (1 << POSITIVE_SHIFT) + base;
            const int32_t size = code == 0 ? 0 : bits;
            to[i] = number_of((uint32_t)(code == POSITIVE_INFINITE ? INFINITE : size));
        }
    }
}

static inline int32_t positive_code(int32_t size, int32_t base, uint32_t dither)
{
    const int32_t random = (int32_t)(dither >> (32 - POSITIVE_SHIFT));
    const int32_t code = larger((size - base + random) >> POSITIVE_SHIFT, 1);
    return size == 0 ? 0 : code;
}

/* The largest of a block's finite numbers. */
static int32_t finite_top(const float *from)
{
    int32_t top = 0;
    for (int i = 0; i < BLOCK; i++) {
        const int32_t size = (int32_t)(bits_of(from[i]) & MAGNITUDE);
        if (size < INFINITE)
            top = larger(top, smaller(size, MOST));
    }
    return top;
}

static void encode_positive8(void *to, const float *from, int64_t n, const uint8_t *units,
                             uint32_t dither)
{
    uint8_t *block = to;
    (void)units;
    for (; n > 0; n -= BLOCK, from += BLOCK, block += CODE_BYTES, dither += BLOCK * FA_DITHER_STEP) {
        uint32_t top = 0;
        int32_t codes[BLOCK];
        for (int i = 0; i < BLOCK; i++)
            top = top > bits_of(from[i]) ? top : bits_of(from[i]);
        const int is_usual = top <= MOST;
        const int32_t largest = is_usual ? (int32_t)top : finite_top(from);
        const int32_t exponent = (largest + POSITIVE_ROOM) >> 23;
        const int32_t base = (exponent - POSITIVE_POWERS) * (1 << 23);
        for (int i = 0; is_usual && i < BLOCK; i++)
            codes[i] = positive_code((int32_t)bits_of(from[i]), base, dither_at(dither, i));
        for (int i = 0; !is_usual && i < BLOCK; i++) {
            const int32_t size = (int32_t)(bits_of(from[i]) & MAGNITUDE);
            codes[i] = size < INFINITE
                           ? positive_code(smaller(size, MOST), base, dither_at(dither, i))
                           : POSITIVE_INFINITE;
        }
        block[0] = (uint8_t)exponent;
        for (int i = 0; i < BLOCK; i++)
            block[1 + i] = (uint8_t)codes[i];
    }
}

/* Signed numbers, each in a unit of its own: 2 to the power of units[i]. For a first moment that is
   near the root of the second moment, by which it will be divided (find_units): so the error is
   small beside what it is divided by, however different a block's numbers are. The block's byte
   is the exponent of the scale, in a float32's form; in units times the scale, the largest number is
   between 2^6 and 2^8. Then 1 is added, and exponent and upper mantissa of the sum are the code:
   steps are even for numbers below 1, and proportional beyond. The code's upper bit is the sign, and
   127 is NaN. */
static void decode_signed8(float *to, const void *from, int64_t n, const uint8_t *units)
{
    const uint8_t *block = from;
    for (; n > 0; n -= BLOCK, to += BLOCK, units += BLOCK, block += CODE_BYTES) {
        const uint32_t scale = block[0];
        for (int i = 0; i < BLOCK; i++) {
            const uint32_t code = block[1 + i] & 0x7Fu, sign = (block[1 + i] & 0x80u) << 24;
            const float scaled = number_of((code << SIGNED_SHIFT) + ONE) - 1;
            const float size = scaled * number_of((scale + units[i]) << 23);
            to[i] = number_of(sign | (code == SIGNED_NAN ? QUIET_NAN : bits_of(size)));
        }
    }
}

/* The code of a number that is not larger than 224 once it is scaled. */
static inline int32_t signed_code(float scaled, uint32_t bits, uint32_t dither)
{
    const uint32_t random = dither >> (32 - SIGNED_SHIFT);
    const uint32_t code = (bits_of(scaled + 1) - ONE + random) >> SIGNED_SHIFT;
    return (int32_t)(code | (bits >> 24 & 0x80));
}

static inline float scaled_size(uint32_t bits, uint32_t inverse, uint32_t unit)
{
    return number_of(bits & MAGNITUDE) * number_of(inverse - (unit << 23));
}

static void encode_signed8(void *to, const float *from, int64_t n, const uint8_t *units,
                           uint32_t dither)
{
    uint8_t *block = to;
    for (; n > 0; n -= BLOCK, from += BLOCK, units += BLOCK, block += CODE_BYTES,
                  dither += BLOCK * FA_DITHER_STEP) {
        int32_t largest = 0, top = 0, codes[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            const int32_t size = (int32_t)(bits_of(from[i]) & MAGNITUDE);
            largest = larger(largest, size);
            top = larger(top, size - units[i] * (1 << 23));
        }
        for (int i = 0; largest >= INFINITE && i < BLOCK; i++) {
            const int32_t size = (int32_t)(bits_of(from[i]) & MAGNITUDE);
            top = i == 0 ? 0 : top;
            top = size < INFINITE ? larger(top, size - units[i] * (1 << 23)) : top;
        }
        const int32_t needed = ((top + SIGNED_ROOM) >> 23) - SIGNED_POWER;
        const int32_t scale = smaller(larger(needed, SIGNED_LEAST), SIGNED_LARGEST);
        const uint32_t inverse = (uint32_t)(254 - scale) << 23;
        const int is_usual = largest < INFINITE && needed <= SIGNED_LARGEST;
        for (int i = 0; is_usual && i < BLOCK; i++) {
            const uint32_t bits = bits_of(from[i]);
            codes[i] = signed_code(scaled_size(bits, inverse, units[i]), bits, dither_at(dither, i));
        }
        for (int i = 0; !is_usual && i < BLOCK; i++) {
            const uint32_t bits = bits_of(from[i]);
            const float scaled = scaled_size(bits, inverse, units[i]);
            codes[i] = (bits & MAGNITUDE) < INFINITE
                           ? signed_code(scaled < 224 ? scaled : 224, bits, dither_at(dither, i))
                           : SIGNED_NAN;
        }
        block[0] = (uint8_t)scale;
        for (int i = 0; i < BLOCK; i++)
            block[1 + i] = (uint8_t)codes[i];
    }
}

/* The units for numbers beside those with these codes: by how many powers of two these, or with
   `root` their roots, are above the smallest that a code stands for. */
static void find_units(uint8_t *units, const void *codes, int64_t n, int root)
{
    const uint8_t *block = codes;
    for (; n > 0; n -= BLOCK, units += BLOCK, block += CODE_BYTES) {
        const int odd = block[0] & 1;
        for (int i = 0; !root && i < BLOCK; i++)
            units[i] = block[1 + i] >> 3;
        for (int i = 0; root && i < BLOCK; i++)
            units[i] = (uint8_t)(((block[1 + i] >> 3) + odd) >> 1);
    }
}
