/* A step of a list of arrays. */
#include <math.h>
#include <stddef.h>

#include "fastadam.h"

int64_t fa_real_size(int dtype) { return dtype == FA_FLOAT32 ? sizeof(float) : sizeof(double); }

/* Arrays of one group, dtype and history share their scalars. Neighbours in the list
   mostly agree, so a few of the newest are looked at. */
static const fa_scalars *scalars_of(const fa_batch *batch, const fa_array *array, int64_t *count,
                                    double clip)
{
    for (int64_t i = *count; i-- > 0 && i >= *count - 16;) {
        const fa_scalars *known = &batch->scratch[i];
        if (known->step == array->step + 1 && known->group == array->group &&
            known->dtype == array->dtype && known->mu_product == array->mu_product)
            return known;
    }
    fa_scalars *made = &batch->scratch[(*count)++];
    *made = fa_next_scalars(batch->rule, &batch->groups[array->group], array, clip);
    return made;
}

static void *moved(void *numbers, int64_t by, const fa_array *array)
{
    return numbers ? (char *)numbers + by * fa_real_size(array->dtype) : NULL;
}

/* Elements begin..end-1 of a gradient that has rows: each run of neighbouring rows is
   stepped as an array that begins where its gradient does. */
static void step_rows(fa_kernel *kernel, const fa_array *array, int64_t begin, int64_t end)
{
    const int64_t width = array->width, *rows = array->rows;
    while (begin < end) {
        const int64_t first = begin / width;
        int64_t last = first + 1;
        while (last * width < end && rows[last] == rows[last - 1] + 1)
            last++;
        const int64_t by = (rows[first] - first) * width;
        const int64_t stop = last * width < end ? last * width : end;
        fa_array run = *array;
        run.param = moved(array->param, by, array);
        run.average = moved(array->average, by, array);
        for (int k = 0; k < FA_STATES; k++)
            run.state[k] = moved(array->state[k], by, array);
        kernel(&run, begin, stop);
        begin = stop;
    }
}

static void step_piece(const fa_batch *batch, const fa_array *array, int64_t begin, int64_t end)
{
    fa_kernel *kernel = batch->isa->kernels[array->dtype]->rules[batch->rule];
    if (array->rows)
        step_rows(kernel, array, begin, end);
    else
        kernel(array, begin, end);
}

int fa_step(fa_batch *batch)
{
    double clip = 1;
    if (batch->measure_norm) {
        batch->grad_norm = fa_grad_norm(batch);
        if (batch->skip_nonfinite && !isfinite(batch->grad_norm))
            return 0;
        /* torch.nn.utils.clip_grad_norm_'s coefficient; a NaN stays one. */
        if (batch->max_grad_norm < INFINITY)
            clip = batch->max_grad_norm / (batch->grad_norm + 1e-6);
        if (clip > 1)
            clip = 1;
    }
    int64_t count = 0;
    for (int64_t i = 0; i < batch->n; i++)
        if (batch->arrays[i].grad)
            batch->arrays[i].scalars = scalars_of(batch, &batch->arrays[i], &count, clip);
    fa_share(batch, step_piece);
    for (int64_t i = 0; i < batch->n; i++)
        if (batch->arrays[i].grad) {
            batch->arrays[i].step++;
            batch->arrays[i].mu_product = batch->arrays[i].scalars->next_mu_product;
        }
    return 1;
}

static void streams_piece(const fa_batch *batch, const fa_array *array, int64_t begin, int64_t end)
{
    batch->isa->kernels[array->dtype]->streams(array, begin, end);
}

void fa_streams(const fa_batch *batch) { fa_share(batch, streams_piece); }
