/* A step of a list of arrays. */
#include <math.h>

#include "fastadam.h"

/* Arrays of one group, dtype and step count share their scalars. Neighbours in the
   list mostly agree, so a few of the newest are looked at. */
static const fa_scalars *scalars_of(const fa_batch *batch, const fa_array *array, int64_t *count,
                                    double clip)
{
    const int64_t step = array->step + 1;
    for (int64_t i = *count; i-- > 0 && i >= *count - 16;)
        if (batch->scratch[i].step == step && batch->scratch[i].group == array->group &&
            batch->scratch[i].dtype == array->dtype)
            return &batch->scratch[i];
    fa_scalars *made = &batch->scratch[(*count)++];
    *made = fa_adam_scalars(&batch->groups[array->group], step, array->dtype, clip);
    made->group = array->group;
    return made;
}

static void step_piece(const fa_isa *isa, const fa_array *array, int64_t begin, int64_t end)
{
    isa->adam[array->dtype](array, begin, end);
}

int fa_step(const fa_isa *isa, fa_batch *batch, int threads)
{
    double clip = 1;
    if (batch->measure_norm) {
        batch->grad_norm = fa_grad_norm(isa, batch, threads);
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
    fa_share(isa, batch, threads, step_piece);
    for (int64_t i = 0; i < batch->n; i++)
        if (batch->arrays[i].grad)
            batch->arrays[i].step++;
    return 1;
}

static void streams_piece(const fa_isa *isa, const fa_array *array, int64_t begin, int64_t end)
{
    isa->streams[array->dtype](array, begin, end);
}

void fa_streams(const fa_isa *isa, const fa_batch *batch, int threads)
{
    fa_share(isa, batch, threads, streams_piece);
}
