/* What the files of csrc/ know of each other. */
#ifndef FASTADAM_IMPL_H
#define FASTADAM_IMPL_H

#include "fastadam.h"

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
    X(step_size) \
    X(grad_step) \
    X(root) \
    X(eps) \
    X(momentum) \
    X(fresh)

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

enum { FA_MOST_RULES = 16 };
/* What kernel.c exports for each instruction set and dtype. */
typedef struct {
    fa_kernel *rules[FA_MOST_RULES];
    fa_kernel *average, *touch;
    fa_sum *sum_squares;
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

#endif
