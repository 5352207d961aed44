/* From a job's span to views of plain numbers. */
#include "guards.h"

#include "impl.h"

enum {
    BEYOND_CACHE = 2 << 20, /* elements of an array that caches do not hold */
    AVERAGED = 1024         /* elements that stay in the first cache while they are averaged */
};

/* What begins at element `at` of the array, and `from` of the gradient. */
static fa_view view_of(const fa_job *job, int64_t at, int64_t from)
{
    const int64_t item = fa_real_size(job->array->dtype);
    return (fa_view){
        &job->array->streams, at, (const char *)job->grad + from * item, job->constants};
}

static void step_run(const fa_batch *batch, const fa_job *job, int64_t at, int64_t from, int64_t n)
{
    const fa_kernels *kernels = fa_kernels_of(batch, job);
    const int ahead = job->size >= BEYOND_CACHE;
    if (fa_is_coded(job)) {
        fa_step_coded(batch, job, at, from, n);
        return;
    }
    if (!job->array->streams.average) {
        const fa_view view = view_of(job, at, from);
        kernels->rules[batch->rule](&view, n, ahead);
        return;
    }
    for (int64_t i = 0; i < n; i += AVERAGED) {
        const fa_view view = view_of(job, at + i, from + i);
        const int64_t count = n - i < AVERAGED ? n - i : AVERAGED;
        kernels->rules[batch->rule](&view, count, ahead);
        kernels->average(&view, count, ahead);
    }
}

void fa_step_piece(const fa_batch *batch, const fa_job *job, int64_t begin, int64_t end)
{
    if (!job->rows) {
        step_run(batch, job, begin, begin, end - begin);
        return;
    }
    /* Neighbouring rows of the gradient that are neighbours in the array, too, make a run. */
    const int64_t width = job->width, *rows = job->rows;
    while (begin < end) {
        const int64_t first = begin / width;
        int64_t last = first + 1;
        while (last * width < end && rows[last] == rows[last - 1] + 1)
            last++;
        const int64_t stop = last * width < end ? last * width : end;
        step_run(batch, job, begin + (rows[first] - first) * width, begin, stop - begin);
        begin = stop;
    }
}

void fa_touch_piece(const fa_batch *batch, const fa_job *job, int64_t begin, int64_t end)
{
    const fa_view view = view_of(job, begin, begin);
    fa_kernels_of(batch, job)->touch(&view, end - begin, 0);
}
