/* For vectors.h: NEON and whatever else the compiler makes of its own vectors. */
typedef uint8_t few_bytes __attribute__((vector_size(FA_LANES), aligned(1), may_alias));
typedef uint16_t few_halves __attribute__((vector_size(2 * FA_LANES), aligned(2), may_alias));
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
