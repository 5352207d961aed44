/* Storage formats with fewer bits than a float32: codes, decoded before a step and encoded after
   it. Compiled once for each instruction set, with
       FA_NAME  the suffix of the exported name, such as avx2
   fastadam/_codecs.py is the twin in NumPy.

   These are loops of their own, since a kernel's divisions and roots keep the CPU busy only if the
   next vectors' are in sight: with codes in its loop, a step of Adam took longer. */
#include "guards.h"

#define FA_REAL float
#define FA_BITS 32
#include "impl.h"
#include "vector.h"

#include "codecs/vectors.h"

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

#include "codecs/bfloat16.h"
#include "codecs/float16.h"
#include "codecs/int8.h"

#define FA_JOIN_(a, b) a##_##b
#define FA_JOIN(a, b) FA_JOIN_(a, b)

const fa_codecs FA_JOIN(fa_codecs, FA_NAME) = {
    .decode = {0, decode_bfloat16, decode_float16, decode_positive8, decode_signed8},
    .encode = {0, encode_bfloat16, 0, encode_positive8, encode_signed8},
    .decode_param_bfloat16 = decode_param_bfloat16,
    .encode_param_bfloat16 = encode_param_bfloat16,
    .decode_param_float16 = decode_param_float16,
    .encode_param_float16 = encode_param_float16,
};
