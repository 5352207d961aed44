/* The global norm of the gradients, in double and in a fixed order: 16 interleaved
   sums a block (kernel.c), then the blocks one after the other. _numpy.py has
   the same in NumPy. */
#include <float.h>
#include <math.h>
#include <stddef.h>

#include "fastadam.h"

int64_t fa_blocks(int64_t size) { return (size + FA_BLOCK - 1) / FA_BLOCK; }

static size_t real_size(const fa_array *array)
{
    return array->dtype == FA_FLOAT32 ? sizeof(float) : sizeof(double);
}

static void sum_piece(const fa_isa *isa, const fa_array *array, int64_t begin, int64_t end)
{
    const char *grad = array->grad;
    for (int64_t i = begin; i < end; i += FA_BLOCK) {
        const int64_t n = end - i < FA_BLOCK ? end - i : FA_BLOCK;
        array->sums[i / FA_BLOCK] =
            isa->sum_squares[array->dtype](grad + i * real_size(array), n, array->norm_scale);
    }
}

static double largest(const fa_array *array, double bound)
{
    for (int64_t i = 0; i < array->size; i++) {
        const double x = fabs(array->dtype == FA_FLOAT32 ? ((const float *)array->grad)[i]
                                                         : ((const double *)array->grad)[i]);
        if (x > bound)
            bound = x;
    }
    return bound;
}

static double sum(const fa_isa *isa, const fa_batch *batch, int threads, double scale)
{
    double *sums = batch->sums;
    for (int64_t i = 0; i < batch->n; i++) {
        fa_array *array = &batch->arrays[i];
        if (!array->grad)
            continue;
        array->sums = sums;
        array->norm_scale = scale;
        sums += fa_blocks(array->size);
    }
    fa_share(isa, batch, threads, sum_piece);
    double total = 0;
    for (const double *s = batch->sums; s < sums; s++)
        total += *s;
    return total;
}

double fa_grad_norm(const fa_isa *isa, const fa_batch *batch, int threads)
{
    const double loss_scale = batch->groups[0].loss_scale;
    double total = sum(isa, batch, threads, 1);
    /* Squares of float64 beyond 1e154 overflow and below 1e-146 lose digits. */
    if (total == INFINITY || total < DBL_MIN / DBL_EPSILON) {
        double bound = 0;
        for (int64_t i = 0; i < batch->n; i++)
            if (batch->arrays[i].grad)
                bound = largest(&batch->arrays[i], bound);
        if (bound > 0 && bound < INFINITY) {
            int exponent;
            frexp(bound, &exponent);
            exponent = exponent < -1000 ? -1000 : exponent;
            total = sum(isa, batch, threads, ldexp(1, -exponent));
            return ldexp(sqrt(total) / loss_scale, exponent);
        }
    }
    return sqrt(total) / loss_scale;
}
