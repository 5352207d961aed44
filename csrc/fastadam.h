/* What a binding may call. Nothing here or behind it knows Python. */
#ifndef FASTADAM_H
#define FASTADAM_H

#include <stddef.h>
#include <stdint.h>

#include "hyper.h"

enum { FA_FLOAT32, FA_FLOAT64, FA_DTYPES };
enum {
    FA_STATES = 3, /* the most arrays of state that a rule keeps, */
    FA_NUMBERS = 2 /* and the most running numbers, such as NAdam's product of momenta */
};

static inline int64_t fa_real_size(int dtype) /* in bytes */
{
    return dtype == FA_FLOAT32 ? sizeof(float) : sizeof(double);
}

/* How the numbers of a stream are stored: as they are, or as codes (codecs/). Arrays with codes
   are stepped in float32. */
enum {
    FA_PLAIN,
    FA_BFLOAT16,
    FA_FLOAT16,
    FA_POSITIVE8, /* numbers that are not negative, */
    FA_SIGNED8,   /* and others: blocks of FA_CODE_BLOCK with a byte before each */
    FA_CODECS
};
enum { FA_CODE_BLOCK = 64 };

/* What a user sets for a group of arrays; a rule uses some of it. */
#define X(name) double name;
typedef struct {
    FA_HYPER(X)
} fa_hyper;
#undef X
enum { FA_HYPERS = sizeof(fa_hyper) / sizeof(double) };
extern const char *const fa_hyper_names[FA_HYPERS]; /* in the struct's order */

/* The rules and the compiled instruction sets are known by their numbers, 0, 1, ...; the
   sets come best first. A name is NULL beyond the last. */
const char *fa_rule_name(int rule);
const char *fa_isa_name(int isa);
int fa_cpu_has(int isa);
int fa_best_isa(void); /* for this CPU */

/* Which arrays of state a rule keeps under these hyper-parameters: bit k for state[k]. */
int fa_states_kept(int rule, const fa_hyper *hyper);

/* Where the numbers of an array lie, and those that go with them, one for each. */
typedef struct {
    void *param;
    void *rest; /* what `param` lacks of a float32: of bfloat16 the lower half as an int16, of
                   float16 the whole float32 */
    void *state[FA_STATES]; /* NULL where the rule keeps none */
    void *average;          /* of the parameter over steps, or NULL */
} fa_streams;

/* The codecs of an array's streams; zeros are plain numbers. */
typedef struct {
    unsigned char param; /* FA_PLAIN, FA_BFLOAT16 or FA_FLOAT16 */
    unsigned char state[FA_STATES];
    unsigned char unit[FA_STATES]; /* of FA_SIGNED8: 1 + k if the numbers of state k, as they are
                                      stored, are the units of these; 0: all units are 1 */
    unsigned char root;            /* whether their roots are */
} fa_format;

/* One array. All is fixed when a batch is made, but for the last two, which a step changes. */
typedef struct {
    fa_streams streams;
    fa_format format;
    int64_t size;
    int64_t origin; /* where element 0 stands, if this is a part of a larger array; with 8 bits, a
                       multiple of FA_CODE_BLOCK, as are the rows of gradients */
    int group, dtype;
    int64_t step; /* finished steps */
    double numbers[FA_NUMBERS];
} fa_array;

typedef struct fa_constants fa_constants; /* the scalars of a step */

/* What one step does to one array. */
typedef struct {
    fa_array *array;
    const void *grad;
    int codec;           /* of the gradient: FA_PLAIN, FA_BFLOAT16 or FA_FLOAT16 */
    int64_t size;        /* of the gradient: that of the array, unless it has rows: */
    const int64_t *rows; /* its row j, `width` numbers, is for the array's row rows[j] */
    int64_t width;
    const fa_constants *constants; /* set by fa_step */
    double *sums, scale;                  /* set by fa_sums */
} fa_job;

enum fa_norm {
    FA_NO_NORM,
    FA_MEASURED, /* fa_step computes grad_norm */
    FA_GIVEN     /* grad_norm was set by the caller, who knows of other gradients, too */
};

/* Arrays that are stepped together. */
typedef struct {
    int isa, rule, threads;
    const fa_hyper *groups;
    fa_job *jobs;
    int64_t n_jobs;
    double loss_scale;
    enum fa_norm norm;
    double grad_norm;     /* of all gradients, divided by the loss scale */
    double max_grad_norm; /* infinity: do not clip */
    int skip_nonfinite;   /* leave out a step whose norm or gradient is not finite */
    fa_constants *constants; /* room for fa_constants_size() bytes a job, zeros at first */
    double *sums; /* room for fa_blocks() of every job, if the norm is measured */
} fa_batch;
size_t fa_constants_size(void);

/* One step of all jobs; 0 if it was skipped. */
int fa_step(fa_batch *batch);

/* The norm is summed in blocks that begin at multiples of FA_BLOCK of the whole array, and
   threads share arrays at the same borders, so that neither depends on the other. */
enum { FA_BLOCK = 4096 };
int64_t fa_blocks(const fa_job *job);

/* The sums of squares of each block of each job, times `scale` squared; how many there are.
   It notes in the jobs where their sums go, so one thread at a time may ask for a batch's. */
int64_t fa_sums(const fa_batch *batch, double scale, double *sums);

/* Their sum, one after the other. */
double fa_fold(const double *sums, int64_t n);

/* The largest magnitude in the gradients that are float64: the squares of others neither
   overflow nor vanish. */
double fa_largest(const fa_batch *batch);

/* The L2 norm of all gradients divided by the loss scale. */
double fa_grad_norm(const fa_batch *batch);

/* The loads and stores of a step of Adam, with one addition for each store: a yardstick. */
void fa_touch(const fa_batch *batch);

/* Sums of equal rows: row j of `sums` is that of the rows order[starts[j]] ..
   order[starts[j + 1] - 1] of `values`, one after the other. */
void fa_merge_rows(int dtype, void *sums, const void *values, int64_t width, const int64_t *order,
                   const int64_t *starts, int64_t n);

/* Threads that a large step uses; set 0 to take what OpenMP would use. */
int fa_get_num_threads(void);
void fa_set_num_threads(int n);
extern const char fa_threading[]; /* "OpenMP" or "none" */

#endif
