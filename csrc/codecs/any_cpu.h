/* For vectors.h: NEON and whatever else the compiler makes of its own vectors. */
typedef uint8_t few_bytes __attribute__((vector_size(FA_LANES), aligned(1), may_alias));
typedef uint16_t few_halves __attribute__((vector_size(2 * FA_LANES), aligned(2), may_alias));
FA_INLINE int any_nan(const real x[])
{
    const bits nan = (bits)(x[0] != x[0]) | (bits)(x[1] != x[1]);
    return (nan[0] | nan[1] | nan[2] | nan[3]) != 0;
}
FA_INLINE ints load_bytes(const uint8_t *from)
{
    return __builtin_convertvector(*(const few_bytes *)from, ints);
}
FA_INLINE ints load_halves(const void *from)
{
    return __builtin_convertvector(*(const few_halves *)from, ints);
}
FA_INLINE void store_halves(void *to, const ints x[])
{
    for (int k = 0; k < TOGETHER; k++)
        ((few_halves *)to)[k] = __builtin_convertvector(x[k], few_halves);
}
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base)
{
    for (int i = 0; i < 4; i++)
        *(few_bytes *)(to + i * FA_LANES) = __builtin_convertvector(x[i] - base, few_bytes);
}
