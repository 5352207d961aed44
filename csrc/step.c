/* A step of a list of arrays. */
#include "fastadam.h"

/* Arrays of one group, dtype and step count share their scalars; the newest
   come first because neighbours in the list mostly agree. */
static const fa_scalars *scalars_of(const fa_array *array, const fa_hyper *groups,
                                    fa_scalars *scratch, int64_t *count)
{
    const int64_t step = array->step + 1;
    for (int64_t i = *count; i-- > 0;)
        if (scratch[i].step == step && scratch[i].group == array->group &&
            scratch[i].dtype == array->dtype)
            return &scratch[i];
    fa_scalars *made = &scratch[(*count)++];
    *made = fa_adam_scalars(&groups[array->group], step, array->dtype);
    made->group = array->group;
    return made;
}

void fa_step(const fa_isa *isa, const fa_hyper *groups, fa_array *arrays, int64_t n,
             fa_scalars *scratch)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        fa_array *array = &arrays[i];
        if (!array->grad)
            continue;
        array->scalars = scalars_of(array, groups, scratch, &count);
        isa->adam[array->dtype](array, 0, array->size);
        array->step++;
    }
}
