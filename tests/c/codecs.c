/* The codecs of csrc/codecs/ by themselves, on every instruction set that this CPU has. What is
   expected is computed here in another way, in double or number by number. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "impl.h"

enum { BLOCK = FA_CODE_BLOCK, BYTES = BLOCK + 1, MANY = 65536 };

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

static double float16_value(uint32_t code)
{
    const int exponent = code >> 10 & 31, mantissa = code & 0x3FF;
    const double size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                        : exponent == 0 ? ldexp(mantissa, -24)
                                        : ldexp(1024 + mantissa, exponent - 25);
    return code & 0x8000 ? -size : size;
}

/* Decoded gradients, of whole blocks. */
static void check_gradients(const fa_codecs *codecs)
{
    static uint16_t codes[65536];
    static float numbers[65536];
    for (int i = 0; i < 65536; i++)
        codes[i] = (uint16_t)i;
    codecs->decode[FA_FLOAT16](numbers, codes, 65536, 0);
    for (uint32_t i = 0; i < 65536; i++)
        expect(same_nan(numbers[i]) == same_nan((float)float16_value(i)), "a float16's number", i);
    codecs->decode[FA_BFLOAT16](numbers, codes, 65536, 0);
    for (uint32_t i = 0; i < 65536; i++)
        expect(bits_of(numbers[i]) == i << 16, "a bfloat16's number", i);
}

/* A step of SGD of half-precision parameters: p - lr * grad. */
static void sgd(int isa, int codec, uint16_t *param, void *rest, const float *grad, double lr)
{
    fa_hyper hyper = {.lr = lr};
    fa_array array = {.streams = {.param = param, .rest = rest},
                      .format = {.param = (unsigned char)codec}, .size = MANY};
    fa_job job = {.array = &array, .grad = grad, .size = MANY};
    fa_batch batch = {.isa = isa, .threads = 1, .groups = &hyper, .jobs = &job, .n_jobs = 1,
                      .loss_scale = 1, .constants = calloc(1, fa_constants_size())};
    while (strcmp(fa_rule_name(batch.rule), "sgd") != 0)
        batch.rule++;
    fa_step(&batch);
    free(batch.constants);
}

static float zeros[MANY];

/* From zero, a step by -x with a learning rate of 1 makes any x; one without a gradient keeps it. */
static void check_bfloat16_param(int isa)
{
    static uint16_t param[MANY], same[MANY];
    static int16_t rest[MANY], rest_before[MANY];
    static float grad[MANY];
    for (uint32_t round = 0; round < 64; round++) {
        for (uint32_t i = 0; i < MANY; i++)
            grad[i] = -number_of((i * 64 + round) * 1021);
        memset(param, 0, sizeof param);
        memset(rest, 0, sizeof rest);
        sgd(isa, FA_BFLOAT16, param, rest, grad, 1);
        for (uint32_t i = 0; i < MANY; i++) {
            const uint32_t bits = bits_of(0 - grad[i]);
            const uint32_t upper = (bits + 0x8000) >> 16;
            if (isnan(grad[i]))
                expect((param[i] & 0x7FFF) > 0x7F80, "a NaN is no NaN", bits);
            else
                expect(param[i] == (uint16_t)upper && (uint16_t)rest[i] == (uint16_t)bits,
                       "a float32 in two halves", bits);
        }
        memcpy(same, param, sizeof same);
        memcpy(rest_before, rest, sizeof rest);
        sgd(isa, FA_BFLOAT16, param, rest, zeros, 0);
        for (uint32_t i = 0; i < MANY; i++)
            expect(param[i] == same[i] && rest[i] == rest_before[i], "halves that changed",
                   (uint32_t)param[i] << 16);
    }
    /* Whatever the remainder is, zeros and what is not finite stay what they are. */
    for (uint32_t i = 0; i < MANY; i++) {
        param[i] = (uint16_t)i;
        rest[i] = (int16_t)(uint16_t)(i * 40503u);
    }
    sgd(isa, FA_BFLOAT16, param, rest, zeros, 0);
    for (uint32_t i = 0; i < MANY; i++) {
        const uint32_t size = i & 0x7FFF, now = param[i] & 0x7FFFu;
        expect(size > 0x7F80 ? now > 0x7F80 : param[i] == i, "a parameter that was written", i);
    }
}

static void check_float16_param(int isa)
{
    static uint16_t param[MANY];
    static float master[MANY], grad[MANY];
    for (int offset = -1; offset <= 1; offset++) { /* below half way between two codes, there, above */
        for (uint32_t i = 0; i < MANY; i++) {
            const uint32_t size = i & 0x7FFF;
            const double next = size == 0x7BFF ? 65536 : float16_value(size + 1);
            float tie = (float)((float16_value(size) + next) / 2);
            tie = offset < 0 ? nextafterf(tie, 0) : offset > 0 ? nextafterf(tie, INFINITY) : tie;
            grad[i] = size >= 0x7C00 ? (float)float16_value(i) : i >> 15 ? tie : -tie;
        }
        memset(param, 0, sizeof param);
        memset(master, 0, sizeof master);
        sgd(isa, FA_FLOAT16, param, master, grad, 1);
        for (uint32_t i = 0; i < MANY; i++) {
            const uint32_t size = i & 0x7FFF;
            const uint32_t nearest = size + (offset > 0 || (offset == 0 && size & 1));
            expect(bits_of(master[i]) == bits_of(0 - grad[i]) || isnan(grad[i]), "a master", i);
            if (size < 0x7C00)
                expect(param[i] == (nearest | (i & 0x8000)), "the nearest float16", i);
        }
    }
    /* A master stays where its parameter is as it was left, and is replaced elsewhere. */
    for (uint32_t i = 0; i < MANY; i += 5)
        param[i] = 0x3C00;
    memcpy(grad, master, sizeof grad);
    sgd(isa, FA_FLOAT16, param, master, zeros, 0);
    for (uint32_t i = 0; i < MANY; i++)
        expect(i % 5 ? same_nan(master[i]) == same_nan(grad[i]) : fabsf(master[i] - 1) <= 0x1p-11f,
               "a master beside what was written", i);
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
        const fa_codecs *codecs = fa_isas[isa].kernels[FA_FLOAT32]->codecs;
        first = first ? first : codecs;
        isa_name = fa_isa_name(isa);
        check_gradients(codecs);
        check_bfloat16_param(isa);
        check_float16_param(isa);
        check_blocks(codecs, FA_POSITIVE8, 0);
        check_blocks(codecs, FA_SIGNED8, 0);
        check_blocks(codecs, FA_SIGNED8, 1);
        check_any(codecs, first);
        check_mean(codecs, FA_POSITIVE8);
        check_mean(codecs, FA_SIGNED8);
    }
    puts(failures ? "codecs: wrong" : "codecs: as they should be");
    return failures != 0;
}
