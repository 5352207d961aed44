/* Storage formats with fewer bits than a float32. Numbers in half precision are read and written by
   a kernel's loop, two vectors at a time, whose halves fill one; blocks of 8 bits are decoded
   before it and encoded after it. fastadam/_codecs.py is the twin in NumPy. */
#include "vectors.h"

static inline uint32_t bits_of(float x)
{
    uint32_t pattern;
    memcpy(&pattern, &x, sizeof pattern);
    return pattern;
}

static inline float number_of(uint32_t pattern)
{
    float x;
    memcpy(&x, &pattern, sizeof x);
    return x;
}

#include "bfloat16.h"
#include "float16.h"
#include "int8.h"

static const fa_codecs codecs = {
    .decode = {0, decode_bfloat16, decode_float16, decode_positive8, decode_signed8},
    .encode = {0, 0, 0, encode_positive8, encode_signed8},
};

FA_INLINE void load_params(const fa_halves *halves, int64_t i, real x[], const half_constants *c)
{
    if (halves->param_codec == FA_BFLOAT16)
        load_param_bfloat16((const uint16_t *)halves->param + i, (const int16_t *)halves->rest + i,
                            x, c);
    else if (halves->param_codec == FA_FLOAT16)
        load_param_float16((const uint16_t *)halves->param + i, (const float *)halves->rest + i, x);
    else
        load_all((const float *)halves->param + i, x);
}

FA_INLINE void store_params(const fa_halves *halves, int64_t i, const real x[],
                            const half_constants *c)
{
    if (halves->param_codec == FA_BFLOAT16)
        store_param_bfloat16((uint16_t *)halves->param + i, (int16_t *)halves->rest + i, x, c);
    else if (halves->param_codec == FA_FLOAT16)
        store_param_float16((uint16_t *)halves->param + i, (float *)halves->rest + i, x);
    else
        store_all((float *)halves->param + i, x);
}

FA_INLINE void load_grads(const fa_halves *halves, int64_t i, real x[])
{
    if (halves->grad_codec == FA_BFLOAT16)
        load_bfloat16((const uint16_t *)halves->grad + i, x);
    else if (halves->grad_codec == FA_FLOAT16)
        load_float16((const uint16_t *)halves->grad + i, x);
    else
        load_all((const float *)halves->grad + i, x);
}

FA_INLINE void load_moments(const fa_halves *halves, int k, int64_t i, real x[])
{
    if (halves->state_codec[k] == FA_BFLOAT16)
        load_bfloat16((const uint16_t *)halves->state[k] + i, x);
    else
        load_all((const float *)halves->state[k] + i, x);
}

FA_INLINE void store_moments(const fa_halves *halves, int k, int64_t i, const real x[],
                             half_dithers *dithers, const half_constants *c)
{
    if (halves->state_codec[k] == FA_BFLOAT16)
        store_bfloat16((uint16_t *)halves->state[k] + i, x, dithers, c);
    else
        store_all((float *)halves->state[k] + i, x);
}
