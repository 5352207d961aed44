/* The codecs of csrc/codecs.c by themselves, on every instruction set that this CPU has. What is
   expected is computed here in another way, in double or number by number. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "impl.h"

enum { BLOCK = FA_CODE_BLOCK, BYTES = BLOCK + 1 };

static int failures;
static const char *isa_name;

static void expect(int holds, const char *what, uint32_t of)
{
    if (holds || failures > 20)
        return;
    printf("%s (%08x), %s\n", what, (unsigned)of, isa_name);
    failures++;
}

static uint32_t random_bits(void)
{
    static uint64_t seed = 1;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float number_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t same_nan(float x) { return isnan(x) ? 0x7FC00000 : bits_of(x); }

/* A parameter and what it lacks are the number again. */
static void check_bfloat16_param(const fa_codecs *codecs)
{
    enum { STEP = 1021 };
    uint16_t param[BLOCK];
    int16_t rest[BLOCK];
    float from[BLOCK], to[BLOCK];
    for (uint32_t begin = 0; begin < 0u - BLOCK * STEP; begin += BLOCK * STEP) {
        for (uint32_t i = 0; i < BLOCK; i++)
            from[i] = number_of(begin + i * STEP);
        codecs->encode_param_bfloat16(param, rest, from, BLOCK);
        codecs->decode_param_bfloat16(to, param, rest, BLOCK);
        for (uint32_t i = 0; i < BLOCK; i++) {
            const uint32_t bits = bits_of(from[i]);
            if (isnan(from[i])) {
                expect(isnan(to[i]) && isnan(number_of((uint32_t)param[i] << 16)),
                       "a NaN was lost in bfloat16", bits);
                continue;
            }
            expect(bits_of(to[i]) == bits, "a bfloat16 parameter is not exact", bits);
            expect(param[i] == (bits + 0x8000) >> 16, "not the nearest bfloat16", bits);
        }
    }
    /* Beside zeros and infinities, anything may have been left. */
    static const uint16_t odd[] = {0, 0x8000, 0x7F80, 0xFF80};
    for (int k = 0; k < 4; k++) {
        for (int i = 0; i < BLOCK; i++) {
            param[i] = odd[k];
            rest[i] = (int16_t)random_bits();
        }
        codecs->decode_param_bfloat16(to, param, rest, BLOCK);
        for (int i = 0; i < BLOCK; i++)
            expect(!isnan(to[i]), "a remainder made a NaN", odd[k]);
    }
}

static void check_bfloat16_moments(const fa_codecs *codecs)
{
    static uint16_t codes[65536], again[65536];
    static float numbers[65536];
    for (int i = 0; i < 65536; i++)
        codes[i] = (uint16_t)i;
    codecs->decode[FA_BFLOAT16](numbers, codes, 65536, 0);
    for (uint32_t i = 0; i < 65536; i++)
        expect(bits_of(numbers[i]) == i << 16, "a bfloat16 code's number", i);
    for (int k = 0; k < 4; k++) {
        codecs->encode[FA_BFLOAT16](again, numbers, 65536, 0, random_bits());
        expect(memcmp(codes, again, sizeof codes) == 0, "bfloat16 codes changed", 0);
    }
    float largest[BLOCK];
    for (int i = 0; i < BLOCK; i++)
        largest[i] = i % 2 ? 3.4028235e38f : -3.4028235e38f;
    codecs->encode[FA_BFLOAT16](again, largest, BLOCK, 0, random_bits());
    for (int i = 0; i < BLOCK; i++)
        expect((again[i] & 0x7FFF) == 0x7F7F, "a finite number became infinite", again[i]);
}

static double float16_value(uint32_t code)
{
    const int exponent = code >> 10 & 31, mantissa = code & 0x3FF;
    const double size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                        : exponent == 0 ? ldexp(mantissa, -24)
                                        : ldexp(1024 + mantissa, exponent - 25);
    return code & 0x8000 ? -size : size;
}

static uint32_t float16_code(const fa_codecs *codecs, float x)
{
    float from[BLOCK] = {0};
    uint16_t to[BLOCK];
    from[BLOCK - 1] = x;
    codecs->encode_param_float16(to, from, BLOCK);
    return to[BLOCK - 1];
}

static void check_float16(const fa_codecs *codecs)
{
    static uint16_t codes[65536], again[65536];
    static float numbers[65536], masters[65536];
    for (int i = 0; i < 65536; i++)
        codes[i] = (uint16_t)i;
    codecs->decode[FA_FLOAT16](numbers, codes, 65536, 0);
    for (uint32_t i = 0; i < 65536; i++) {
        const float value = (float)float16_value(i);
        expect(same_nan(numbers[i]) == same_nan(value), "a float16 code's number", i);
    }
    codecs->encode_param_float16(again, numbers, 65536);
    for (uint32_t i = 0; i < 65536; i++)
        expect(again[i] == i || (isnan(numbers[i]) && again[i] == (i | 0x200)),
               "a float16 code changed", i);
    /* Half way between two codes the even one is taken, and the nearest on either side. */
    for (uint32_t i = 0; i < 0x7C00; i++) {
        const double next = i == 0x7BFF ? 65536 : float16_value(i + 1);
        const float tie = (float)((float16_value(i) + next) / 2);
        expect(float16_code(codecs, tie) == i + (i & 1), "a tie between float16 numbers", i);
        expect(float16_code(codecs, nextafterf(tie, 0)) == i, "below a tie", i);
        expect(float16_code(codecs, -nextafterf(tie, INFINITY)) == (0x8000 | (i + 1)),
               "above a tie", i);
    }
    expect(float16_code(codecs, 1e30f) == 0x7C00, "too large for float16", 0);
    expect(float16_code(codecs, -1e-40f) == 0x8000, "a float32's subnormal as float16", 0);
    /* A master stays where its parameter is as it was written, and is replaced elsewhere. */
    for (uint32_t i = 0; i < 65536; i++) {
        const uint32_t near = bits_of(numbers[i]) + ((i & 0x3FF) != 0);
        masters[i] = isnan(numbers[i]) ? numbers[i] : number_of(near);
    }
    codecs->encode_param_float16(again, masters, 65536);
    for (int i = 0; i < 65536; i += 5)
        again[i] = 0x3C00;
    memcpy(numbers, masters, sizeof numbers);
    codecs->decode_param_float16(masters, again, 65536);
    for (uint32_t i = 0; i < 65536; i++)
        expect(i % 5 ? same_nan(masters[i]) == same_nan(numbers[i])
                     : masters[i] == 1 || float16_code(codecs, numbers[i]) == 0x3C00,
               "a master beside float16", i);
    /* A gradient ends where it ends. */
    for (int n = 0; n < 2 * BLOCK; n++)
        for (int codec = FA_BFLOAT16; codec <= FA_FLOAT16; codec++) {
            uint16_t *from = malloc((size_t)n * sizeof *from + 1);
            float *to = malloc((size_t)n * sizeof *to + 1);
            for (int i = 0; i < n; i++)
                from[i] = (uint16_t)i;
            codecs->decode[codec](to, from, n, 0);
            for (int i = 0; i < n; i++)
                expect(bits_of(to[i]) == (codec == FA_FLOAT16
                                              ? bits_of((float)float16_value((uint32_t)i))
                                              : (uint32_t)i << 16),
                       "the end of a gradient", (uint32_t)n);
            free(from);
            free(to);
        }
}

/* Codes of blocks whose scale is right come back: first the largest, which makes it so. */
static void check_blocks(const fa_codecs *codecs, int codec, int is_root)
{
    const int most = codec == FA_SIGNED8 ? 127 : 255, least_scale = codec == FA_SIGNED8 ? 12 : 4;
    uint8_t block[BYTES], again[BYTES], beside[BYTES];
    float numbers[BLOCK];
    const fa_units units = {beside, BYTES, is_root};
    for (int scale = least_scale; scale <= 222; scale += 2)
        for (int marked = 0; marked <= 1; marked++)
            for (int round = 0; round < 16; round++) {
                if (marked && codec == FA_SIGNED8 && scale > 190)
                    continue; /* there, what is above 7.6e28 is cut */
                block[0] = (uint8_t)(scale | marked);
                for (int i = 0; i < BLOCK; i++) {
                    beside[1 + i] = (uint8_t)random_bits();
                    block[1 + i] = (uint8_t)(i + round * BLOCK);
                    if (marked && codec == FA_SIGNED8 && block[1 + i] == 255)
                        block[1 + i] = 127;
                }
                block[1 + round] = (uint8_t)(most - marked);
                block[BLOCK - round] = (uint8_t)most;
                codecs->decode[codec](numbers, block, BLOCK, &units);
                for (int i = 0; i < BLOCK; i++) {
                    const int is_most = (block[1 + i] & most) == most;
                    const int is_right = !marked || !is_most      ? isfinite(numbers[i])
                                         : codec == FA_SIGNED8 ? isnan(numbers[i])
                                                               : numbers[i] == INFINITY;
                    const float size = fabsf(numbers[i]);
                    expect(is_right, "what a code stands for", block[1 + i]);
                    expect((size == 0) == ((block[1 + i] & most) == 0), "zero", block[1 + i]);
                    expect(size == 0 || !(size < 1.17549435e-38f), "a subnormal number", block[0]);
                }
                codecs->encode[codec](again, numbers, BLOCK, &units, random_bits());
                expect(memcmp(block, again, BYTES) == 0, "codes in 8 bits changed", block[0]);
            }
}

/* Any numbers and any bytes: a code is beside the number, what is positive is not stored as zero,
   and all sets agree. */
static void check_any(const fa_codecs *codecs, const fa_codecs *others)
{
    uint8_t block[BYTES], other[BYTES], beside[BYTES];
    float from[BLOCK], to[BLOCK], more[BLOCK];
    for (int round = 0; round < 20000; round++) {
        const fa_units units = {beside, BYTES, round & 1};
        const uint32_t dither = random_bits();
        const int spread = round / 2 % 33;
        for (int i = 0; i < BLOCK; i++) {
            const uint32_t bits = random_bits();
            from[i] = spread == 32 ? number_of(bits)
                                   : ldexpf(1 + (float)(bits & 0xFFFF) / 65536,
                                            (int)(bits >> 16) % (spread + 1) - 60 + spread);
            if (spread != 32 && bits >> 31)
                from[i] = -from[i];
            if (bits % 61 == 0)
                from[i] = 0;
            beside[1 + i] = (uint8_t)random_bits();
        }
        beside[0] = (uint8_t)random_bits();
        for (int codec = FA_POSITIVE8; codec <= FA_SIGNED8; codec++) {
            float largest = 0;
            for (int i = 0; i < BLOCK; i++) {
                if (codec == FA_POSITIVE8)
                    from[i] = number_of(bits_of(from[i]) & 0x7FFFFFFF);
                largest = fabsf(from[i]) > largest ? fabsf(from[i]) : largest;
            }
            codecs->encode[codec](block, from, BLOCK, &units, dither);
            others->encode[codec](other, from, BLOCK, &units, dither);
            expect(memcmp(block, other, BYTES) == 0, "sets encode differently", (uint32_t)codec);
            codecs->decode[codec](to, block, BLOCK, &units);
            for (int i = 0; codec == FA_POSITIVE8 && i < BLOCK; i++) {
                expect((to[i] == 0) == (from[i] == 0), "zero, or not", bits_of(from[i]));
                expect((isfinite(from[i]) == 0) == (isfinite(to[i]) == 0), "infinity, or not",
                       bits_of(from[i]));
                if (from[i] > 1e-5f * largest && from[i] < 1e38f && from[i] > 1e-30f)
                    expect(fabsf(to[i] / from[i] - 1) < 0.1251f, "far away", bits_of(from[i]));
            }
            for (int i = 0; codec == FA_SIGNED8 && i < BLOCK; i++)
                expect((isfinite(from[i]) == 0) == (isnan(to[i]) != 0), "a NaN, or not",
                       bits_of(from[i]));
            for (int i = 0; i < BYTES; i++)
                block[i] = (uint8_t)random_bits();
            codecs->decode[codec](to, block, BLOCK, &units);
            others->decode[codec](more, block, BLOCK, &units);
            for (int i = 0; i < BLOCK; i++)
                expect(same_nan(to[i]) == same_nan(more[i]), "sets decode differently", block[0]);
        }
    }
}

/* The mean of a number rounded many times is the number. */
static void check_mean(const fa_codecs *codecs, int codec)
{
    enum { TIMES = 1024 };
    const float sizes[] = {1, 0.7f, 0.03f, 0.011f};
    uint8_t beside[BYTES] = {0};
    const fa_units units = {beside, 0, 0};
    for (int k = 0; k < 4; k++) {
        float numbers[BLOCK], to[BLOCK];
        uint16_t room[BYTES];
        double sum = 0, squares = 0;
        for (int i = 0; i < BLOCK; i++)
            numbers[i] = i ? sizes[k] * (1 + 1e-3f * (float)k) : 1;
        for (int t = 0; t < TIMES; t++) {
            codecs->encode[codec](room, numbers, BLOCK, &units, random_bits());
            codecs->decode[codec](to, room, BLOCK, &units);
            for (int i = 1; i < BLOCK; i++) {
                const double error = (double)to[i] / (double)numbers[i] - 1;
                sum += error;
                squares += error * error;
            }
        }
        const double n = TIMES * (BLOCK - 1), mean = sum / n, spread = sqrt(squares / n / n);
        expect(fabs(mean) <= 6 * spread + 1e-7, "the mean of what is rounded at random",
               (uint32_t)codec);
        expect(k == 0 || spread > 0, "nothing is rounded at random", (uint32_t)codec);
    }
}

int main(void)
{
    const fa_codecs *first = 0;
    for (int isa = 0; fa_isa_name(isa); isa++) {
        if (!fa_cpu_has(isa))
            continue;
        const fa_codecs *codecs = fa_isas[isa].codecs;
        first = first ? first : codecs;
        isa_name = fa_isa_name(isa);
        check_bfloat16_param(codecs);
        check_bfloat16_moments(codecs);
        check_float16(codecs);
        check_blocks(codecs, FA_POSITIVE8, 0);
        check_blocks(codecs, FA_SIGNED8, 0);
        check_blocks(codecs, FA_SIGNED8, 1);
        check_any(codecs, first);
        check_mean(codecs, FA_BFLOAT16);
        check_mean(codecs, FA_POSITIVE8);
        check_mean(codecs, FA_SIGNED8);
    }
    puts(failures ? "codecs: wrong" : "codecs: as they should be");
    return failures != 0;
}
