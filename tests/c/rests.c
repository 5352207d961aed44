/* When csrc/share.c lets one thread work alone, by a clock of the test's own. The Makefile sets
   OMP_THREAD_LIMIT=1, so that the parts of a step are done one after the other. */
#include <stdio.h>

#include "impl.h"

enum { SIZE = 1 << 20 };

static double now = 100, slow; /* the clock; how long the next part is kept waiting */
static int parts, failures;

double omp_get_wtime(void);
double omp_get_wtime(void) { return now; }

static void piece(const fa_batch *batch, const fa_job *job, int64_t begin, int64_t end)
{
    (void)batch, (void)job;
    now += 1e-9 * (double)(end - begin) + slow;
    slow = 0;
    parts++;
}

static void expect(const char *when, int number, double wait, double lose)
{
    fa_array array = {.size = SIZE, .dtype = FA_FLOAT32};
    fa_job job = {.array = &array, .size = SIZE};
    const fa_batch batch = {.jobs = &job, .n_jobs = 1, .threads = 2};
    now += wait;
    slow = lose;
    parts = 0;
    fa_share(&batch, piece);
    if (parts != number) {
        printf("rests: %d parts, expected %d, %s\n", parts, number, when);
        failures++;
    }
}

int main(void)
{
    expect("at first", 2, 0, 0);
    expect("though it had to wake somebody", 2, 0, 1e-4);
    expect("in the step that loses 10 ms", 2, 0, 0.01);
    expect("at once after it", 1, 0, 0);
    expect("nearly twice as long after it", 1, 0.015, 0);
    expect("in the next try, which loses 1 ms", 2, 0.01, 0.001);
    expect("nearly twice the first rest after that", 1, 0.037, 0);
    expect("in a try that loses nothing", 2, 0.01, 0);
    expect("in a step that loses 1 ms, much later", 2, 1, 0.001);
    expect("at once after it", 1, 0, 0);
    expect("more than 2 ms later", 2, 0.003, 10);
    expect("3.9 s after a loss of 10 s", 1, 3.9, 0);
    expect("4.1 s after it", 2, 0.2, 10);
    fa_set_num_threads(2);
    expect("once a number of threads was set", 2, 0, 0);
    puts(failures ? "rests: wrong" : "rests: as they should be");
    return failures != 0;
}
