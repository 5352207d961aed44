/* Storage formats with fewer bits than a float32: codes, decoded before a step and encoded after
   it. Compiled once for each instruction set, with
       FA_NAME  the suffix of the exported name, such as avx2
   fastadam/_codecs.py is the twin in NumPy. Loops are such that compilers make vectors of them:
   in integers, and narrowed in a loop of their own. */
#include "guards.h"

#include <string.h>

#include "impl.h"

enum {
    BLOCK = FA_CODE_BLOCK, /* all n are multiples of it: loops of a fixed length are the fastest */
    MAGNITUDE = 0x7FFFFFFF, /* of a float32's bits, all but the sign */
    INFINITE = 0x7F800000,
    QUIET_NAN = 0x7FC00000,
    ONE = 0x3F800000
};

static inline uint32_t bits_of(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

static inline float number_of(uint32_t bits)
{
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
static inline int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

/* A Weyl sequence: any stretch of it is spread evenly over all 32 bits, and it takes an addition
   for a vector. What makes it random is where it begins (fa_dither). */
static inline uint32_t dither_at(uint32_t dither, int i)
{
    return dither + (uint32_t)i * FA_DITHER_STEP;
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
    .find_units = find_units,
};
