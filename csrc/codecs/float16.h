/* float16 (binary16 of IEEE 754), for gradients and parameters. No number below the smallest
   normal float32 takes part in arithmetic: a CPU may have been told to take it for zero. */
#if FA_BYTES == 64

FA_INLINE real float16_numbers(const uint16_t *codes)
{
    return (real)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)codes));
}
FA_INLINE ints float16_codes(real x)
{
    enum { TO_NEAREST = 0 }; /* whatever MXCSR says */
    return (ints)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)x, TO_NEAREST));
}

#elif FA_BYTES == 32 && defined(__F16C__)

FA_INLINE real float16_numbers(const uint16_t *codes)
{
    return (real)_mm256_cvtph_ps(_mm_loadu_si128((const void *)codes));
}
FA_INLINE ints float16_codes(real x)
{
    enum { TO_NEAREST = 0 };
    return (ints)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)x, TO_NEAREST));
}

#else

FA_INLINE real float16_numbers(const uint16_t *from)
{
    const ints codes = load_halves(from);
    const ints moved = shifted_left(codes & 0x7FFF, 13);
    const ints smallest = spread_int(113 << 23); /* 2^-14 */
    const ints normal = moved + (112 << 23);
    const ints subnormal = ints_of(real_of(moved + smallest) - real_of(smallest));
    const ints quiet = where_less(spread_int(0x7C00 << 13), moved, spread_int(0x00400000));
    const ints finite = choose_less(moved, spread_int(0x0400 << 13), subnormal, normal);
    const ints beyond = moved | quiet | INFINITE;
    const ints size = choose_less(moved, spread_int(0x7C00 << 13), finite, beyond);
    return real_of(size | shifted_left(codes & 0x8000, 16));
}

/* The nearest float16, of two the even one. */
FA_INLINE ints float16_codes(real x)
{
    const ints size = ints_of(magnitude(x));
    const ints even = shifted_right(size, 13) & 1;
    const ints normal = shifted_right(size - (112 << 23) + 0x0FFF + even, 13);
    /* To a half, units of 2^-24 are added: those of a subnormal float16. */
    const ints half = spread_int(126 << 23);
    const ints subnormal = ints_of(real_of(size) + real_of(half)) - half;
    const ints nan = (shifted_right(size, 13) & 0x3FF) | 0x7E00;
    const ints beyond = choose_less(spread_int(INFINITE), size, nan, spread_int(0x7C00));
    const ints above = choose_less(size, spread_int(0x477FF000), normal, beyond);
    const ints code = choose_less(size, spread_int(113 << 23), subnormal, above);
    return code | (shifted_right(ints_of(x), 16) & 0x8000);
}

#endif

FA_INLINE void load_float16(const uint16_t *from, real x[])
{
    for (int k = 0; k < TOGETHER; k++)
        x[k] = float16_numbers(from + k * FA_LANES);
}

/* The float32 beside a parameter is kept, unless a user has written into the parameter since. */
FA_INLINE void load_param_float16(const uint16_t *param, const float *rest, real x[])
{
    for (int k = 0; k < TOGETHER; k++) {
        const uint16_t *codes = param + k * FA_LANES;
        const real kept = load(rest + k * FA_LANES);
        x[k] = where_equal(float16_codes(kept), load_halves(codes), kept, float16_numbers(codes));
    }
}

FA_INLINE void store_param_float16(uint16_t *param, float *rest, const real x[])
{
    ints codes[TOGETHER];
    for (int k = 0; k < TOGETHER; k++)
        codes[k] = float16_codes(x[k]);
    store_all(rest, x);
    store_halves(param, codes);
}

static void decode_float16(float *to, const void *from, int64_t n, const fa_units *units)
{
    (void)units;
    for (int64_t i = 0; i < n; i += FA_LANES)
        store(to + i, float16_numbers((const uint16_t *)from + i));
}
