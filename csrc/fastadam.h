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
    const fa_scalars *scalars; /* set by fa_step */
} fa_array;

/* A kernel updates elements begin..end-1 of an array. */
typedef void fa_kernel(const fa_array *array, int64_t begin, int64_t end);

/* The kernels compiled for one instruction set. */
typedef struct {
    const char *name;
    int (*cpu_has)(void);
    fa_kernel *adam[FA_DTYPES];
    fa_kernel *streams[FA_DTYPES]; /* the rule's memory traffic alone, a yardstick */
} fa_isa;

/* The compiled instruction sets, best first; the last row has a NULL name. */
extern const fa_isa fa_isas[];

fa_scalars fa_adam_scalars(const fa_hyper *hyper, int64_t step, int dtype);

/* One step of all arrays of all groups. `scratch` has room for n scalars. */
void fa_step(const fa_isa *isa, const fa_hyper *groups, fa_array *arrays, int64_t n,
             fa_scalars *scratch);

#endif
