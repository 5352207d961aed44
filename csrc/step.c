/* A step of a list of arrays. */
#include "guards.h"

#include <math.h>
#include <string.h>

#include "impl.h"

/* Arrays of one group, dtype and history share their constants. Neighbours in the list
   mostly agree, so a few of the newest are looked at. */
static const fa_constants *constants_of(const fa_batch *batch, const fa_array *array,
                                        int64_t *count, double clip)
{
    enum { LOOK_BACK = 16 };
    for (int64_t i = *count; i-- > 0 && i >= *count - LOOK_BACK;) {
        const fa_constants *known = &batch->constants[i];
        if (known->step == array->step + 1 && known->group == array->group &&
            known->dtype == array->dtype &&
            memcmp(known->before, array->numbers, sizeof known->before) == 0)
            return known;
    }
    fa_constants *made = &batch->constants[(*count)++];
    fa_next_constants(made, batch, array, clip);
    return made;
}

/* The coefficient of torch.nn.utils.clip_grad_norm_; a NaN stays one. */
static double clip_of(const fa_batch *batch)
{
    if (batch->norm == FA_NO_NORM || !(batch->max_grad_norm < INFINITY))
        return 1;
    const double clip = batch->max_grad_norm / (batch->grad_norm + 1e-6);
    return clip > 1 ? 1 : clip;
}

int fa_step(fa_batch *batch)
{
    if (batch->norm == FA_MEASURED)
        batch->grad_norm = fa_grad_norm(batch);
    const double clip = clip_of(batch);
    if (batch->norm != FA_NO_NORM && batch->skip_nonfinite &&
        (!isfinite(batch->grad_norm) || fa_overflows(batch, clip)))
        return 0;
    int64_t count = 0;
    for (int64_t i = 0; i < batch->n_jobs; i++) {
        fa_job *job = &batch->jobs[i];
        job->constants = constants_of(batch, job->array, &count, clip);
        job->array->step = job->constants->step;
        memcpy(job->array->numbers, job->constants->after, sizeof job->array->numbers);
    }
    fa_share(batch, fa_step_piece);
    return 1;
}

void fa_touch(const fa_batch *batch) { fa_share(batch, fa_touch_piece); }
