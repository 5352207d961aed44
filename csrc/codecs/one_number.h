/* For vectors.h: no vectors, so that all are one number. What each function does is plainest
   here. */
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
FA_INLINE int any_nan(const real x[]) { return x[0] != x[0]; }
FA_INLINE ints load_bytes(const uint8_t *from) { return *from; }
FA_INLINE ints load_halves(const void *from) { return *(const uint16_t *)from; }
FA_INLINE void store_halves(void *to, const ints x[]) { *(uint16_t *)to = (uint16_t)x[0]; }
FA_INLINE void store_bytes(uint8_t *to, const ints x[4], int base)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(x[i] - base);
}
