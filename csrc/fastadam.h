/* What a binding may call. Nothing here or behind it knows Python. */
#ifndef FASTADAM_H
#define FASTADAM_H

#include <stdint.h>

#include "rules.h"

#define X(rule, RULE) FA_##RULE,
enum { FA_RULES(X) FA_N_RULES };
#undef X
extern const char *const fa_rule_names[FA_N_RULES];

enum { FA_FLOAT32, FA_FLOAT64, FA_DTYPES };
int64_t fa_real_size(int dtype); /* in bytes */
enum { FA_STATES = 3 }; /* most arrays of state that a rule keeps */

/* What a user sets for a group of arrays; a rule uses some of it. */
typedef struct {
    double lr, beta1, beta2, eps, weight_decay, alpha, momentum, dampening, momentum_decay;
    double ema_decay, loss_scale;
    int amsgrad, maximize, decoupled, epsilon_hat, nesterov, centered;
} fa_hyper;

/* What the kernels need of them at step count `step`, in double; a kernel rounds each
   number once to its dtype. Names as in rules.h. */
typedef struct {
    double grad_factor, weight_decay, keep, ema_decay;
    double b1, b2, step_size, grad_step, root, eps, momentum, fresh;
    int flags;
    /* What they were computed for. */
    int64_t step;
    int group, dtype;
    double mu_product, next_mu_product; /* before and after this step */
} fa_scalars;

/* One array and its state: real numbers behind every pointer. */
typedef struct {
    void *param;
    const void *grad; /* NULL: leave this array and its step count alone */
    void *state[FA_STATES];
    void *average;       /* of the parameter over steps, or NULL */
    int64_t size;        /* of the gradient, which is the parameter's unless it has rows: */
    const int64_t *rows; /* its row j, `width` numbers, is for the parameter's row rows[j] */
    int64_t width;
    int64_t step;      /* finished steps */
    double mu_product; /* of the finished steps; NAdam's */
    int group, dtype;
    const fa_scalars *scalars; /* set by fa_step, */
    double *sums, norm_scale;  /* by fa_grad_norm */
} fa_array;

/* A kernel updates elements begin..end-1 of an array, */
typedef void fa_kernel(const fa_array *array, int64_t begin, int64_t end);
/* or sums the squares of so many numbers, each times `scale`. */
typedef double fa_sum(const void *numbers, int64_t n, double scale);

/* What kernel.c exports, for each instruction set and dtype. */
typedef struct {
    fa_kernel *rules[FA_N_RULES];
    fa_kernel *streams; /* Adam's memory traffic alone, a yardstick */
    fa_sum *sum_squares;
} fa_kernels;

typedef struct {
    const char *name;
    int (*cpu_has)(void);
    const fa_kernels *kernels[FA_DTYPES];
} fa_isa;

/* The compiled instruction sets, best first; the last one has a NULL name. */
extern const fa_isa fa_isas[];

/* Arrays that are stepped together. */
typedef struct {
    const fa_isa *isa;
    int rule, threads;
    const fa_hyper *groups;
    fa_array *arrays;
    int64_t n;
    double max_grad_norm; /* infinity: do not clip */
    int measure_norm, skip_nonfinite;
    fa_scalars *scratch; /* room for n */
    double *sums;        /* room for fa_blocks() of every array, if the norm is measured */
    double grad_norm;    /* a result */
} fa_batch;

/* The gradient norm is summed in blocks of an array, and threads share arrays at
   their borders, so that neither depends on the other. */
enum { FA_BLOCK = 4096 };
int64_t fa_blocks(int64_t size);

/* The scalars of an array's next step. */
fa_scalars fa_next_scalars(int rule, const fa_hyper *hyper, const fa_array *array, double clip);

/* The L2 norm of all gradients divided by their loss scales. */
double fa_grad_norm(const fa_batch *batch);

/* One step of all arrays of all groups; 0 if it was skipped. */
int fa_step(fa_batch *batch);

/* The streams of all arrays: what fa_step costs without its arithmetic. */
void fa_streams(const fa_batch *batch);

/* piece(batch, array, begin, end) for all arrays that have a gradient, cut at
   block borders into parts of equal size, on several threads. */
typedef void fa_piece(const fa_batch *batch, const fa_array *array, int64_t begin, int64_t end);
void fa_share(const fa_batch *batch, fa_piece *piece);

/* Sums of equal rows: row j of `sums` is that of the rows order[starts[j]] ..
   order[starts[j + 1] - 1] of `values`, one after the other. */
void fa_sum_rows(int dtype, void *sums, const void *values, int64_t width, const int64_t *order,
                 const int64_t *starts, int64_t n);

/* Threads that a large step uses; set 0 to take what OpenMP would use. */
int fa_get_num_threads(void);
void fa_set_num_threads(int n);
extern const char fa_threading[]; /* "OpenMP" or "none" */

#endif
