/* The global norm of the gradients, in double and in a fixed order: 16 interleaved
   sums a block (kernel.c), then the blocks one after the other. _numpy.py has
   the same in NumPy. */
#include "guards.h"

#include <float.h>
#include <math.h>

#include "impl.h"

int64_t fa_blocks(const fa_job *job)
{
    return job->size ? (fa_offset(job) + job->size + FA_BLOCK - 1) / FA_BLOCK : 0;
}

static void sum_piece(const fa_batch *batch, const fa_job *job, int64_t begin, int64_t end)
{
    fa_sum *sum_squares = fa_kernels_of(batch, job)->sum_squares;
    float room[FA_BLOCK];
    for (int64_t stop; begin < end; begin = stop) {
        const int64_t block = (fa_offset(job) + begin) / FA_BLOCK;
        stop = (block + 1) * FA_BLOCK - fa_offset(job);
        stop = stop < end ? stop : end;
        const void *numbers = fa_grad_numbers(batch, job, begin, stop - begin, room);
        job->sums[block] = sum_squares(numbers, stop - begin, job->scale);
    }
}

int64_t fa_sums(const fa_batch *batch, double scale, double *sums)
{
    int64_t count = 0;
    for (int64_t i = 0; i < batch->n_jobs; i++) {
        fa_job *job = &batch->jobs[i];
        job->sums = sums + count;
        job->scale = scale;
        count += fa_blocks(job);
    }
    fa_share(batch, sum_piece);
    return count;
}

double fa_fold(const double *sums, int64_t n)
{
    double total = 0;
    for (int64_t i = 0; i < n; i++)
        total += sums[i];
    return total;
}

double fa_largest(const fa_batch *batch)
{
    double bound = 0;
    for (int64_t i = 0; i < batch->n_jobs; i++) {
        const fa_job *job = &batch->jobs[i];
        const double *grad = job->grad;
        for (int64_t j = 0; job->array->dtype == FA_FLOAT64 && j < job->size; j++) {
            if (fabs(grad[j]) > bound)
                bound = fabs(grad[j]);
            if (bound == INFINITY)
                return bound;
        }
    }
    return bound;
}

double fa_grad_norm(const fa_batch *batch)
{
    double total = fa_fold(batch->sums, fa_sums(batch, 1, batch->sums));
    /* Squares beyond 1e154 overflow and below 1e-146 lose digits. */
    if (total == INFINITY || total < DBL_MIN / DBL_EPSILON) {
        const double bound = fa_largest(batch);
        if (bound > 0 && bound < INFINITY) {
            int exponent;
            frexp(bound, &exponent);
            exponent = exponent < -1000 ? -1000 : exponent;
            total = fa_fold(batch->sums, fa_sums(batch, ldexp(1, -exponent), batch->sums));
            return ldexp(sqrt(total) / batch->loss_scale, exponent);
        }
    }
    return sqrt(total) / batch->loss_scale;
}

int fa_overflows(const fa_batch *batch, double clip)
{
    /* No product is larger than this, but for its rounding. */
    if (!(batch->grad_norm * clip > FLT_MAX / 2))
        return 0;
    const float factor = (float)(clip / batch->loss_scale);
    float room[FA_BLOCK];
    for (int64_t i = 0; i < batch->n_jobs; i++) {
        const fa_job *job = &batch->jobs[i];
        for (int64_t j = 0; job->array->dtype == FA_FLOAT32 && j < job->size; j += FA_BLOCK) {
            const int64_t n = job->size - j < FA_BLOCK ? job->size - j : FA_BLOCK;
            const float *grad = fa_grad_numbers(batch, job, j, n, room);
            for (int64_t k = 0; k < n; k++)
                if (!isfinite(grad[k] * factor))
                    return 1;
        }
    }
    return 0;
}
