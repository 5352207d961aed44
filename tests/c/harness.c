/* csrc/ without Python: every rule on every instruction set that this CPU has must leave the
   same bytes, whatever the length, the place in memory and the number of threads. All memory
   is exactly as large as it must be, so that a sanitizer sees what goes beyond. The Makefile
   beside this file builds and runs it. The hash that it prints is that of all bytes, and the same
   on every little-endian machine. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastadam.h"

enum { MOST_ARRAYS = 8, STEPS = 3 };

static int failures;

static void fail(const char *what, const char *rule, const char *isa, int dtype)
{
    printf("%s: %s, %s, float%d\n", what, rule, isa, dtype == FA_FLOAT32 ? 32 : 64);
    failures++;
}

static void *allocate(size_t bytes)
{
    void *memory = calloc(bytes ? bytes : 1, 1);
    if (!memory)
        abort();
    return memory;
}

/* A linear congruential generator (Knuth's MMIX constants); its upper half is good enough. */
static double uniform(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(*seed >> 11) / (double)(1ull << 53);
}

/* Numbers over many decades, with all kinds of special ones among them. */
static double any_number(uint64_t *seed)
{
    static const double special[] = {0, -0.0, 1, 1e-45, -1e-310, 3e38, 1e300, INFINITY, NAN};
    const double x = uniform(seed) - 0.5;
    if (uniform(seed) < 0.05)
        return special[(size_t)(uniform(seed) * (sizeof special / sizeof *special))];
    return ldexp(x, (int)(133 * (uniform(seed) - 0.5)));
}

static void fill(void *numbers, int64_t n, int dtype, int positive, uint64_t *seed)
{
    for (int64_t i = 0; i < n; i++) {
        const double x = positive ? fabs(any_number(seed)) : any_number(seed);
        if (dtype == FA_FLOAT32)
            ((float *)numbers)[i] = (float)x;
        else
            ((double *)numbers)[i] = x;
    }
}

/* IEEE 754 leaves the bits of a NaN open, so all NaNs are made one. */
static void make_nans_one(void *numbers, int64_t n, int dtype)
{
    const uint32_t nan32 = 0x7fc00000;
    const uint64_t nan64 = 0x7ff8000000000000;
    for (int64_t i = 0; i < n; i++)
        if (dtype == FA_FLOAT32 && isnan(((float *)numbers)[i]))
            memcpy((float *)numbers + i, &nan32, sizeof nan32);
        else if (dtype == FA_FLOAT64 && isnan(((double *)numbers)[i]))
            memcpy((double *)numbers + i, &nan64, sizeof nan64);
}

static void make_half_nans_one(uint16_t *codes, int64_t n, int codec)
{
    const int infinite = codec == FA_BFLOAT16 ? 0x7F80 : 0x7C00;
    for (int64_t i = 0; i < n; i++)
        if ((codes[i] & 0x7FFF) > infinite)
            codes[i] = 0x7FFF;
}

/* How a test stores an array: */
enum {
    PLAIN,
    SMALL,      /* moments as bfloat16, */
    SMALLER,    /* or in 8 bits */
    FORMATS
};
typedef struct {
    int param, grad, moments;
} formats;

/* Of each rule the states that are not negative and those that stay plain, as bits; which one is a
   state's unit, as 1 + its number; and whether that one's root is. */
static const struct {
    const char *rule;
    int positive, exact, unit[FA_STATES], root;
} storage[] = {
    {"adam", 6, 0, {2}, 1},    {"nadam", 2, 0, {2}, 1},
    {"radam", 2, 0, {2}, 1},   {"adamax", 2, 0, {2}, 0},
    {"rmsprop", 1, 0, {0}, 0}, {"sgd", 0, 0, {0}, 0},
    {"lion", 0, 0, {0}, 0},    {"adopt", 2, 0, {0}, 0},
    {"ademamix", 4, 0, {3, 3}, 1}, {"schedule_free", 2, 1, {0}, 0},
};

static fa_format format_of(const char *rule, const formats *f)
{
    fa_format format = {.param = (unsigned char)f->param};
    size_t i = 0;
    while (strcmp(storage[i].rule, rule) != 0)
        if (++i == sizeof storage / sizeof *storage)
            abort(); /* a new rule needs a row */
    format.root = f->moments == SMALLER && storage[i].root;
    for (int k = 0; k < FA_STATES; k++) {
        const int small = storage[i].exact >> k & 1 ? PLAIN : f->moments;
        format.state[k] = small == SMALL                    ? FA_BFLOAT16
                          : small == PLAIN                  ? FA_PLAIN
                          : storage[i].positive >> k & 1 ? FA_POSITIVE8
                                                            : FA_SIGNED8;
        format.unit[k] = small == SMALLER ? (unsigned char)storage[i].unit[k] : 0;
    }
    return format;
}

/* The bytes of n numbers, and of those before them. */
static size_t bytes_of(int codec, int dtype, int64_t n)
{
    if (codec == FA_PLAIN)
        return (size_t)(n * fa_real_size(dtype));
    if (codec == FA_BFLOAT16 || codec == FA_FLOAT16)
        return (size_t)n * sizeof(uint16_t);
    return (size_t)((n + FA_CODE_BLOCK - 1) / FA_CODE_BLOCK * (FA_CODE_BLOCK + 1));
}

static void fill_codes(void *codes, int64_t n, int codec, int positive, uint64_t *seed)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = 0;
        const float x = (float)(positive ? fabs(any_number(seed)) : any_number(seed));
        memcpy(&bits, &x, sizeof bits);
        if (codec == FA_BFLOAT16)
            ((uint16_t *)codes)[i] = (uint16_t)(bits >> 16);
        else if (codec == FA_FLOAT16)
            ((uint16_t *)codes)[i] = (uint16_t)(uniform(seed) * 65536);
    }
    const int64_t blocks = (n + FA_CODE_BLOCK - 1) / FA_CODE_BLOCK;
    uint8_t *block = codes;
    for (int64_t j = 0; codec >= FA_POSITIVE8 && j < blocks; j++, block += FA_CODE_BLOCK + 1)
        for (int i = 0; j % 3 && i <= FA_CODE_BLOCK; i++) /* any bytes, and new ones */
            block[i] = (uint8_t)(uniform(seed) * 256);
}

/* What is stepped: the same numbers for the same case and seed. */
typedef struct {
    int rule, dtype, n, averaged, with_rows, norm, origin;
    int64_t sizes[MOST_ARRAYS];
    fa_hyper hyper;
    formats formats;
} problem;

/* A hash of all that some steps leave (FNV-1a, of eight bytes at a time). */
static uint64_t hash(uint64_t h, const void *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = 0;
        memcpy(&word, (const char *)memory + i, bytes - i < 8 ? bytes - i : 8);
        h = (h ^ word) * 1099511628211u;
        h ^= h >> 32;
    }
    return h;
}

static uint64_t of_all = 14695981039346656037u;

enum { PARAM, GRAD, AVERAGE, REST, STATE, STREAMS = STATE + FA_STATES };

/* The codec of each stream, and -1 where there is no stream. */
static void codecs_of(int codec[STREAMS], const problem *p)
{
    const fa_format format = format_of(fa_rule_name(p->rule), &p->formats);
    codec[PARAM] = format.param;
    codec[GRAD] = p->formats.grad;
    codec[AVERAGE] = FA_PLAIN;
    codec[REST] = format.param == FA_BFLOAT16  ? FA_BFLOAT16
                  : format.param == FA_FLOAT16 ? FA_PLAIN
                                               : -1;
    for (int k = 0; k < FA_STATES; k++)
        codec[STATE + k] = format.state[k];
}

typedef char *memories[MOST_ARRAYS][STREAMS];

/* What the arrays hold before the first step; made once, since it takes longer than the steps. */
static void fill_all(memories numbers, const problem *p)
{
    int codec[STREAMS];
    uint64_t seed = 1;
    codecs_of(codec, p);
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < STREAMS; k++) {
            numbers[i][k] = codec[k] < 0 ? NULL : allocate(bytes_of(codec[k], p->dtype, p->sizes[i]));
            if (codec[k] == FA_PLAIN)
                fill(numbers[i][k], p->sizes[i], p->dtype, k == AVERAGE || k >= STATE, &seed);
            else if (codec[k] > 0)
                fill_codes(numbers[i][k], p->sizes[i], codec[k], k >= STATE, &seed);
        }
}

static void free_all(memories memory, int n)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < STREAMS; k++)
            free(memory[i][k]);
}

static uint64_t run(const problem *p, memories numbers, int isa, int threads, int shift)
{
    uint64_t result = 14695981039346656037u;
    const int states = fa_states_kept(p->rule, &p->hyper);
    const fa_format format = format_of(fa_rule_name(p->rule), &p->formats);
    int codec[STREAMS];
    codecs_of(codec, p);
    fa_array arrays[MOST_ARRAYS] = {0};
    fa_job jobs[MOST_ARRAYS] = {0};
    memories memory = {{0}}, first = {{0}};
    int64_t rows[] = {0, 1, 3};
    int64_t blocks = 0;
    for (int i = 0; i < p->n; i++) {
        /* Begin in the middle of a line, but end where the memory ends. */
        for (int k = 0; k < STREAMS; k++) {
            if (codec[k] < 0)
                continue;
            const size_t before =
                codec[k] < FA_POSITIVE8 ? bytes_of(codec[k], p->dtype, shift) : (size_t)shift;
            const size_t bytes = bytes_of(codec[k], p->dtype, p->sizes[i]);
            memory[i][k] = allocate(before + bytes);
            first[i][k] = memcpy(memory[i][k] + before, numbers[i][k], bytes);
        }
        arrays[i].streams.param = first[i][PARAM];
        arrays[i].streams.rest = first[i][REST];
        arrays[i].streams.average = p->averaged ? first[i][AVERAGE] : NULL;
        for (int k = 0; k < FA_STATES; k++)
            if (states >> k & 1)
                arrays[i].streams.state[k] = first[i][STATE + k];
        arrays[i].format = format;
        arrays[i].size = p->sizes[i];
        arrays[i].origin = p->origin;
        arrays[i].dtype = p->dtype;
        arrays[i].numbers[0] = 1;
        jobs[i].array = &arrays[i];
        jobs[i].grad = first[i][GRAD];
        jobs[i].codec = p->formats.grad;
        jobs[i].size = p->sizes[i];
        const int64_t unit = p->formats.moments == SMALLER ? 4 * FA_CODE_BLOCK : 4;
        if (p->with_rows && p->sizes[i] % unit == 0) {
            jobs[i].rows = rows;
            jobs[i].width = p->sizes[i] / 4;
            jobs[i].size = 3 * jobs[i].width;
        }
        blocks += fa_blocks(&jobs[i]);
    }
    fa_batch batch = {
        .isa = isa, .rule = p->rule, .threads = threads, .groups = &p->hyper, .jobs = jobs,
        .n_jobs = p->n, .loss_scale = 2, .norm = p->norm ? FA_MEASURED : FA_NO_NORM,
        .max_grad_norm = 1e3, .constants = allocate((size_t)p->n * fa_constants_size()),
        .sums = allocate((size_t)blocks * sizeof(double)),
    };
    for (int step = 0; step < STEPS; step++)
        if (!fa_step(&batch))
            abort();
    for (int i = 0; i < p->n; i++) {
        for (int k = 0; k < STREAMS; k++) {
            if (codec[k] == FA_PLAIN)
                make_nans_one(first[i][k], p->sizes[i], p->dtype);
            else if (codec[k] > 0 && codec[k] < FA_POSITIVE8 && k != REST)
                make_half_nans_one((uint16_t *)(void *)first[i][k], p->sizes[i], codec[k]);
            if (codec[k] >= 0)
                result = hash(result, first[i][k], bytes_of(codec[k], p->dtype, p->sizes[i]));
        }
        result = hash(result, &arrays[i].step, sizeof arrays[i].step);
        result = hash(result, arrays[i].numbers, sizeof arrays[i].numbers);
    }
    make_nans_one(&batch.grad_norm, 1, FA_FLOAT64);
    result = hash(result, &batch.grad_norm, sizeof batch.grad_norm);
    free_all(memory, p->n);
    free(batch.constants);
    free(batch.sums);
    return result;
}

static void compare(const problem *p, int most_threads)
{
    uint64_t expected = 0;
    int first = 1;
    memories numbers;
    fill_all(numbers, p);
    for (int isa = 0; fa_isa_name(isa); isa++) {
        if (!fa_cpu_has(isa))
            continue;
        for (int shift = 0; shift < 16; shift += most_threads > 1 ? 11 : 5)
            for (int threads = 1; threads <= most_threads; threads++) {
                const uint64_t found = run(p, numbers, isa, threads, shift);
                if (first)
                    expected = found;
                else if (found != expected)
                    fail("other bytes", fa_rule_name(p->rule), fa_isa_name(isa), p->dtype);
                first = 0;
            }
    }
    free_all(numbers, p->n);
    of_all = hash(of_all, &expected, sizeof expected);
}

static void check_rules(void)
{
    for (int rule = 0; fa_rule_name(rule); rule++)
        for (int dtype = 0; dtype < FA_DTYPES; dtype++)
            for (int variant = 0; variant < 64; variant++) {
                problem p = {
                    .rule = rule, .dtype = dtype, .n = 6,
                    .sizes = {0, 1, 3 + variant % 5, 16 * (variant % 3 + 1), 1028, 4099 + variant},
                    .hyper = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,
                              .weight_decay = variant & 1 ? 0.1 : 0, .alpha = 0.99,
                              .momentum = variant & 2 ? 0.9 : 0, .dampening = 0.1,
                              .psi = 0.9998, .ema_decay = 0.9,
                              .beta3 = 0.9999, .half_life_ratio = 0.001,
                              .t_alpha = variant & 2 ? 2.5 : 0, .t_beta3 = variant & 4 ? 5 : 0,
                              .clip = variant & 4 ? -1 : 0.3, .r = variant & 2 ? 1.7 : 0,
                              .warmup_steps = variant & 4 ? 2 : 0, .weight_lr_power = 2,
                              .amsgrad = variant >> 2 & 1, .nesterov = variant >> 2 & 1,
                              .centered = variant >> 2 & 1,
                              .decoupled_weight_decay = variant >> 3 & 1,
                              .epsilon_hat = variant >> 3 & 1, .maximize = variant >> 4 & 1},
                    .averaged = variant >> 4 & 1, .with_rows = variant >> 5 & 1,
                    .norm = variant >> 5 & 1,
                };
                compare(&p, 1);
            }
}

/* From some 10^5 elements on threads share an array; from 2^21 on it is prefetched. */
static void check_large(void)
{
    for (int dtype = 0; dtype < FA_DTYPES; dtype++)
        for (int rule = 0; fa_rule_name(rule); rule++) {
            problem p = {
                .rule = rule, .dtype = dtype, .n = 2, .sizes = {400000, 70001}, .norm = 1,
                .hyper = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .alpha = 0.99,
                          .ema_decay = 0.9, .psi = 0.9998, .beta3 = 0.9999},
                .averaged = rule % 2, .with_rows = rule % 3 == 1, .origin = rule * 1000,
            };
            if (rule == 0)
                p.sizes[0] = (2 << 20) + 77;
            compare(&p, 2);
        }
}

/* All formats: sizes with blocks that are not full, and such that threads share them. */
static void check_formats(void)
{
    for (int rule = 0; fa_rule_name(rule); rule++)
        for (int kind = 0; kind < 3 * 3 * FORMATS; kind++) {
            const int variant = kind + rule;
            problem p = {
                .rule = rule, .dtype = FA_FLOAT32, .n = 8,
                .formats = {kind / 3 % 3, kind % 3, kind / 9},
                .hyper = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .seed = 5,
                          .weight_decay = variant & 1 ? 0.1 : 0, .alpha = 0.99,
                          .momentum = variant & 2 ? 0.9 : 0, .psi = 0.9998, .ema_decay = 0.9,
                          .beta3 = 0.9999, .clip = variant & 4 ? -1 : 0.25,
                          .amsgrad = variant >> 2 & 1, .nesterov = variant >> 2 & 1,
                          .centered = variant >> 2 & 1},
                .averaged = variant % 3 == 0, .with_rows = variant % 2,
                .norm = variant % 2, .origin = 64 * rule,
            };
            const int64_t large[] = {0, 4095, 4096, 4097, 1024, 256, 2560, 63};
            memcpy(p.sizes, large, sizeof large);
            compare(&p, 1);
            /* Each rule has some of the formats, and each format some of the rules. */
            for (int begin = 1; variant % 3 == 0 && begin <= 200; begin += MOST_ARRAYS) {
                for (int i = 0; i < MOST_ARRAYS; i++)
                    p.sizes[i] = begin + i;
                compare(&p, 1);
            }
            p.n = 1;
            p.sizes[0] = (kind == 24 ? 2 << 20 : 1 << 18) + 77;
            if (variant % 5 == 0)
                compare(&p, 2);
        }
}

/* Block sums of the parts of an array are those of the whole, wherever it is cut; and a norm
   that is given counts as one that was measured. */
static void check_parts_of_a_norm(void)
{
    enum { N = 3 * FA_BLOCK + 100, CUT = FA_BLOCK };
    uint64_t seed = 3;
    double *grad = allocate(N * sizeof(double)), whole[4], parts[4];
    for (int i = 0; i < N; i++)
        grad[i] = uniform(&seed) - 0.5;
    fa_array array = {.size = N, .dtype = FA_FLOAT64}, ends[2] = {array, array};
    fa_job job = {.array = &array, .grad = grad, .size = N}, halves[2] = {job, job};
    ends[0].size = halves[0].size = CUT;
    ends[1].size = halves[1].size = N - CUT;
    ends[1].origin = CUT;
    halves[0].array = &ends[0];
    halves[1].array = &ends[1];
    halves[1].grad = grad + CUT;
    fa_batch batch = {.isa = fa_best_isa(), .threads = 2, .jobs = &job, .n_jobs = 1, .loss_scale = 4, .sums = whole};
    const double norm = fa_grad_norm(&batch);
    batch.jobs = halves;
    batch.n_jobs = 2;
    if (fa_sums(&batch, 1, parts) != 4 || memcmp(whole, parts, sizeof whole) != 0 ||
        sqrt(fa_fold(parts, 4)) / 4 != norm)
        fail("block sums of the parts differ", "norm", fa_isa_name(0), FA_FLOAT64);

    double moved[2];
    for (int given = 0; given < 2; given++) {
        double param = 1;
        fa_hyper hyper = {.lr = 1};
        fa_array one = {.streams = {.param = &param}, .size = 1, .dtype = FA_FLOAT64};
        fa_job step = {.array = &one, .grad = grad, .size = 1};
        int sgd = 0;
        while (strcmp(fa_rule_name(sgd), "sgd") != 0)
            sgd++;
        fa_batch b = {.isa = fa_best_isa(), .rule = sgd, .threads = 1, .groups = &hyper, .jobs = &step, .n_jobs = 1,
                      .loss_scale = 1, .norm = given ? FA_GIVEN : FA_MEASURED,
                      .grad_norm = fabs(grad[0]), .max_grad_norm = fabs(grad[0]) / 2,
                      .constants = allocate(fa_constants_size()), .sums = whole};
        fa_step(&b);
        free(b.constants);
        moved[given] = param;
        b.norm = FA_GIVEN;
        b.grad_norm = NAN;
        b.skip_nonfinite = 1;
        if (fa_step(&b) || param != moved[given])
            fail("a step with a given NaN was taken", "sgd", fa_isa_name(0), FA_FLOAT64);
    }
    if (moved[0] != moved[1] || moved[0] == 1)
        fail("a given norm does not count as a measured one", "sgd", fa_isa_name(0), FA_FLOAT64);
    free(grad);
}

static void check_equal_rows(void)
{
    const float values[] = {1, 2, 10, 20, 100, 200};
    const int64_t order[] = {0, 2, 1}, starts[] = {0, 2, 3};
    const float expected[] = {101, 202, 10, 20};
    float sums[4];
    fa_merge_rows(FA_FLOAT32, sums, values, 2, order, starts, 2);
    if (memcmp(sums, expected, sizeof sums) != 0)
        fail("sums of equal rows", "fa_merge_rows", "C", FA_FLOAT32);
}

int main(void)
{
    check_rules();
    check_large();
    check_formats();
    check_parts_of_a_norm();
    check_equal_rows();
    puts(failures ? "FAILED" : "all the same");
    printf("hash of all: %08lx%08lx\n", (unsigned long)(of_all >> 32),
           (unsigned long)(of_all & 0xffffffff));
    return failures != 0;
}
