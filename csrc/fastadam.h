/* What a binding may call. Nothing here or behind it knows Python. */
#ifndef FASTADAM_H
#define FASTADAM_H

#include <stdint.h>

enum { FA_FLOAT32, FA_FLOAT64, FA_DTYPES };
enum { FA_EXP_AVG, FA_EXP_AVG_SQ, FA_MAX_EXP_AVG_SQ, FA_STATES };

/* What a user sets for a group of arrays. */
typedef struct {
    double lr, beta1, beta2, eps, weight_decay, loss_scale;
    int amsgrad, maximize, decoupled, epsilon_hat;
} fa_hyper;

/* What the rule needs of them at step count `step`, in double; a kernel rounds
   each number once to its dtype. Names as in kernel.c. */
typedef struct {
    double grad_factor, weight_decay, b1, b2, step_size, root, eps, keep;
    int coupled, amsgrad;
    int64_t step;
    int group, dtype;
} fa_scalars;

/* One array and its state: `size` real numbers behind every pointer. */
typedef struct {
    void *param;
    const void *grad; /* NULL: leave this array and its step count alone */
    void *state[FA_STATES];
    int64_t size;
    int64_t step; /* finished steps */
    int group, dtype;
    const fa_scalars *scalars; /* set by fa_step, */
    double *sums, norm_scale;  /* by fa_grad_norm */
} fa_array;

/* A kernel updates elements begin..end-1 of an array, */
typedef void fa_kernel(const fa_array *array, int64_t begin, int64_t end);
/* or sums the squares of so many numbers, each times `scale`. */
typedef double fa_sum(const void *numbers, int64_t n, double scale);

/* The kernels compiled for one instruction set. */
typedef struct {
    const char *name;
    int (*cpu_has)(void);
    fa_kernel *adam[FA_DTYPES];
    fa_kernel *streams[FA_DTYPES]; /* the rule's memory traffic alone, a yardstick */
    fa_sum *sum_squares[FA_DTYPES];
} fa_isa;

/* The compiled instruction sets, best first; the last row has a NULL name. */
extern const fa_isa fa_isas[];

/* Arrays that are stepped together. */
typedef struct {
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

fa_scalars fa_adam_scalars(const fa_hyper *hyper, int64_t step, int dtype, double clip);

/* The L2 norm of all gradients divided by their loss scales. */
double fa_grad_norm(const fa_isa *isa, const fa_batch *batch, int threads);

/* One step of all arrays of all groups; 0 if it was skipped. */
int fa_step(const fa_isa *isa, fa_batch *batch, int threads);

/* The streams of all arrays: what fa_step costs without its arithmetic. */
void fa_streams(const fa_isa *isa, const fa_batch *batch, int threads);

/* piece(batch, array, begin, end) for all arrays that have a gradient, cut at
   block borders into parts of equal size, on several threads. */
typedef void fa_piece(const fa_isa *isa, const fa_array *array, int64_t begin, int64_t end);
void fa_share(const fa_isa *isa, const fa_batch *batch, int threads, fa_piece *piece);

/* Threads that a large step uses; set 0 to take what OpenMP would use. */
int fa_get_num_threads(void);
void fa_set_num_threads(int n);
extern const char fa_threading[]; /* "OpenMP" or "none" */

#endif
