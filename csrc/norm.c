/* The global norm of the gradients, in double and in a fixed order: 16 interleaved
   sums a block (kernel.c), then the blocks one after the other. _numpy.py has
   the same in NumPy. */
#include <float.h>
#include <math.h>

#include "fastadam.h"

int64_t fa_blocks(int64_t size) { return (size + FA_BLOCK - 1) / FA_BLOCK; }

static void sum_piece(const fa_batch *batch, const fa_array *array, int64_t begin, int64_t end)
{
    fa_sum *sum_squares = batch->isa->kernels[array->dtype]->sum_squares;
    const char *grad = array->grad;
    for (int64_t i = begin; i < end; i += FA_BLOCK) {
        const int64_t n = end - i < FA_BLOCK ? end - i : FA_BLOCK;
        array->sums[i / FA_BLOCK] =
            sum_squares(grad + i * fa_real_size(array->dtype), n, array->norm_scale);
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

static double sum(const fa_batch *batch, double scale)
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
    fa_share(batch, sum_piece);
    double total = 0;
    for (const double *s = batch->sums; s < sums; s++)
        total += *s;
    return total;
}

double fa_grad_norm(const fa_batch *batch)
{
    const double loss_scale = batch->groups[0].loss_scale;
    double total = sum(batch, 1);
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
            total = sum(batch, ldexp(1, -exponent));
            return ldexp(sqrt(total) / loss_scale, exponent);
        }
    }
    return sqrt(total) / loss_scale;
}
