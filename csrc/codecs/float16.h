/* float16 (binary16 of IEEE 754), for gradients and parameters. No number below the smallest
   normal float32 takes part in arithmetic: a CPU may have been told to take it for zero. */
static inline float float16_number(uint32_t code)
{
    const uint32_t smallest = 113u << 23; /* 2^-14, as a float32 */
    const uint32_t moved = (code & 0x7FFF) << 13;
    const uint32_t normal = moved + (112u << 23), beyond = moved | INFINITE;
    const uint32_t subnormal = bits_of(number_of(moved + smallest) - number_of(smallest));
    const uint32_t size = moved < 0x0400u << 13 ? subnormal : moved < 0x7C00u << 13 ? normal : beyond;
    return number_of(size | (code & 0x8000) << 16);
}

/* The nearest float16, of two the even one. */
static inline uint32_t float16_code(float number)
{
    const uint32_t bits = bits_of(number), size = bits & MAGNITUDE;
    const uint32_t normal = (size - (112u << 23) + 0x0FFF + (size >> 13 & 1)) >> 13;
    /* To a half, units of 2^-24 are added: those of a subnormal float16. */
    const uint32_t subnormal = bits_of(number_of(size) + 0.5f) - bits_of(0.5f);
    const uint32_t beyond = size > INFINITE ? 0x7E00 : 0x7C00;
    const uint32_t code = size < 113u << 23 ? subnormal : size < 0x477FF000 ? normal : beyond;
    return code | (bits >> 16 & 0x8000);
}

static void decode_float16(float *to, const void *from, int64_t n, const uint8_t *units)
{
    const uint16_t *codes = from;
    (void)units;
    for (; n > 0; n -= BLOCK, codes += BLOCK, to += BLOCK)
        for (int i = 0; i < BLOCK; i++)
            to[i] = float16_number(codes[i]);
}

/* The float32 beside a parameter, or what a user has written into the parameter since. */
static void decode_param_float16(void *rest, const void *param, int64_t n)
{
    const uint16_t *codes = param;
    float *master = rest;
    for (; n > 0; n -= BLOCK, codes += BLOCK, master += BLOCK)
        for (int i = 0; i < BLOCK; i++) {
            const float kept = master[i], written = float16_number(codes[i]);
            master[i] = float16_code(kept) == codes[i] ? kept : written;
        }
}

static void encode_param_float16(void *param, const void *rest, int64_t n)
{
    uint16_t *codes = param;
    const float *master = rest;
    for (; n > 0; n -= BLOCK, codes += BLOCK, master += BLOCK)
        for (int i = 0; i < BLOCK; i++)
            codes[i] = (uint16_t)float16_code(master[i]);
}
