/* What the files of csrc/ know of each other. */
#ifndef FASTADAM_IMPL_H
#define FASTADAM_IMPL_H

#include <string.h>

#include "fastadam.h"

enum { FA_LINE = 64 }; /* bytes of a cache line */

/* A number from 0 to less than 1; digits are worth 2^-128, 2^-96, 2^-64 and 2^-32. */
enum { FA_DIGITS = 4 };
typedef struct {
    uint32_t digits[FA_DIGITS];
} fa_fraction;

/* base^n as it was last computed; zeros before the first time. */
typedef struct {
    double base;
    int64_t n;
    fa_fraction exact_base, power;
} fa_power_memo;
double fa_power(fa_power_memo *last, double base, int64_t n); /* 0 <= base <= 1, n >= 1 */
double fa_real_power(double base, double exponent); /* 0 <= base, 0 <= exponent */

enum { FA_POWERS = 2 }; /* of a rule, at the most */

/* The scalars of a step. A rule computes them in double; they are then rounded once to the
   arrays' dtype. Names as in rules/. */
#define FA_SCALARS(X) \
    X(grad_factor) \
    X(weight_decay) \
    X(keep) \
    X(ema_decay) \
    X(b1) \
    X(b2) \
    X(b3) \
    X(step_size) \
    X(grad_step) \
    X(slow_step) \
    X(z_share) \
    X(root) \
    X(eps) \
    X(momentum) \
    X(fresh) \
    X(limit)

#define X(name) double name;
typedef struct { /* of one array and step; */
    FA_SCALARS(X)
    int flags; /* which of the rule's variants is asked for */
    int dtype;
    int64_t step;               /* the number of this step */
    double numbers[FA_NUMBERS]; /* before the step; a rule makes them those after it */
    fa_power_memo *powers;      /* FA_POWERS, from step to step */
} fa_scalars;
typedef struct {
    FA_SCALARS(X)
} fa_doubles;
#undef X
#define X(name) float name;
typedef struct {
    FA_SCALARS(X)
} fa_floats;
#undef X

/* What kernels get of them, and what they were computed for. */
struct fa_constants {
    union {
        fa_floats float32;
        fa_doubles float64;
    } rounded;
    int flags;
    int group, dtype;
    int64_t step;
    double before[FA_NUMBERS], after[FA_NUMBERS];
    fa_power_memo powers[FA_POWERS]; /* mostly those of the same array's last step */
};

/* A flag that holds for all rules, and from FA_FLAG(0) on those of each. */
enum { FA_COUPLED = 1 }; /* weight decay is added to the gradient */
#define FA_FLAG(i) (2 << (i))
#define FA_STATE(k) (1 << (k))

/* Whether a float32 gradient of a finite norm becomes infinite when a step multiplies it by
   clip / loss_scale. (A float64 one would have made the norm infinite.) */
int fa_overflows(const fa_batch *batch, double clip);

/* The constants of an array's next step, whose gradient is clipped by the factor `clip`. */
void fa_next_constants(fa_constants *to, const fa_batch *batch, const fa_array *array, double clip);

/* What a kernel sees of a job, or of a part of it: plain numbers that lie in a row. */
typedef struct {
    const fa_streams *streams;
    int64_t at;       /* where in the streams it begins */
    const void *grad; /* this is its own */
    const fa_constants *constants;
} fa_view;

/* A kernel steps a view's n numbers; `ahead` says that they are not in a cache. */
typedef void fa_kernel(const fa_view *view, int64_t n, int ahead);
/* The sum of the squares of n numbers, each times `scale`. */
typedef double fa_sum(const void *numbers, int64_t n, double scale);

/* 2^32 divided by the golden ratio: multiples of it are spread evenly over the numbers below 2^32.
   And 2^16 divided by that, of which bfloat16 takes multiples. */
#define FA_DITHER_STEP 0x9E3779B1u
#define FA_DITHER_STEP_16 0x9E37u

/* Blocks whose codes tell the units of FA_SIGNED8 (codecs/int8.h). */
typedef struct {
    const uint8_t *blocks;
    int64_t stride; /* bytes from a block to the next */
    int is_root;
} fa_units;

/* n codes, which are whole blocks of FA_CODE_BLOCK, and the numbers that they stand for. `units`
   are those of FA_SIGNED8; `dither` decides how the first number is rounded, and those behind. */
typedef void fa_decode(float *to, const void *from, int64_t n, const fa_units *units);
typedef void fa_encode(void *to, const float *from, int64_t n, const fa_units *units,
                       uint32_t dither);
typedef struct {
    fa_decode *decode[FA_CODECS];
    fa_encode *encode[FA_CODECS];
} fa_codecs;

/* What a kernel sees of a job some of whose numbers are in half precision. The others are plain. */
typedef struct {
    void *param, *rest, *average, *state[FA_STATES];
    const void *grad;
    int param_codec, grad_codec, state_codec[FA_STATES];
    uint32_t dither[FA_STATES]; /* what decides how the first number of a state is rounded */
    const fa_constants *constants;
} fa_halves;

/* A kernel for these steps n numbers, which are whole blocks of FA_CODE_BLOCK. */
typedef void fa_halves_kernel(const fa_halves *halves, int64_t n);

enum { FA_MOST_RULES = 16 };
/* What kernel.c exports for each instruction set and dtype. */
typedef struct {
    fa_kernel *rules[FA_MOST_RULES];
    fa_kernel *average, *touch;
    fa_sum *sum_squares;
    fa_halves_kernel *halves[FA_MOST_RULES]; /* of float32 only, as are */
    const fa_codecs *codecs;
} fa_kernels;

typedef struct {
    const char *name;
    int (*cpu_has)(void), (*pays)(void);
    const fa_kernels *kernels[FA_DTYPES];
} fa_isa;
extern const fa_isa fa_isas[];

static inline const fa_kernels *fa_kernels_of(const fa_batch *batch, const fa_job *job)
{
    return fa_isas[batch->isa].kernels[job->array->dtype];
}

/* The bytes of a gradient's element. */
static inline int64_t fa_grad_size(const fa_job *job)
{
    return job->codec == FA_PLAIN ? fa_real_size(job->array->dtype) : (int64_t)sizeof(uint16_t);
}

/* n numbers of a gradient, from element `from` on, as a kernel takes them: where they are or, if
   they are codes, decoded in the room. */
static inline const void *fa_grad_numbers(const fa_batch *batch, const fa_job *job, int64_t from,
                                          int64_t n, float *room)
{
    const void *grad = (const char *)job->grad + from * fa_grad_size(job);
    if (job->codec == FA_PLAIN)
        return grad;
    fa_decode *decode = fa_kernels_of(batch, job)->codecs->decode[job->codec];
    const int64_t rest = n % FA_CODE_BLOCK;
    decode(room, grad, n - rest, 0);
    if (rest) { /* behind it is other memory */
        uint16_t codes[FA_CODE_BLOCK] = {0};
        float numbers[FA_CODE_BLOCK];
        memcpy(codes, (const uint16_t *)grad + (n - rest), (size_t)rest * sizeof *codes);
        decode(numbers, codes, FA_CODE_BLOCK, 0);
        memcpy(room + (n - rest), numbers, (size_t)rest * sizeof *numbers);
    }
    return room;
}

/* Where in a block of the whole array a gradient begins. */
static inline int64_t fa_offset(const fa_job *job)
{
    return job->rows ? 0 : job->array->origin % FA_BLOCK;
}

/* What is done to elements begin..end-1 of a job's gradient, by one thread: */
typedef void fa_piece(const fa_batch *batch, const fa_job *job, int64_t begin, int64_t end);
fa_piece fa_step_piece, fa_touch_piece;

/* to all elements of all jobs, on several threads. */
void fa_share(const fa_batch *batch, fa_piece *piece);

/* Whether some of a job's numbers are stored as codes; in line, for lists of short arrays. */
static inline int fa_is_coded(const fa_job *job)
{
    static const unsigned char plain[offsetof(fa_format, unit)]; /* the codecs come before it */
    return job->codec != FA_PLAIN || memcmp(&job->array->format, plain, sizeof plain) != 0;
}

/* The step of n such elements, that begin at `at` in the array and at `from` in the gradient. */
void fa_step_coded(const fa_batch *batch, const fa_job *job, int64_t at, int64_t from, int64_t n);

#endif
