/* csrc/ called from several threads at once, each with arrays of its own, while another thread
   changes the number of threads that a step may use: for ThreadSanitizer, and each must find what
   one thread finds. `make threads` builds and runs it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastadam.h"

enum { THREADS = 4, ARRAYS = 3, STEPS = 6, LARGE = 300000, SMALL = 5000 };

typedef struct {
    int rule, dtype, isa;
    uint64_t result;
} work;

static int stop; /* atomic: whether the numbers of threads are to be left alone */

static uint64_t hash(uint64_t h, const void *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)memory)[i]) * 1099511628211u;
    return h;
}

static void *allocate(size_t bytes)
{
    void *memory = calloc(bytes, 1);
    if (!memory)
        abort();
    return memory;
}

static void fill(void *numbers, int64_t n, int dtype)
{
    for (int64_t i = 0; i < n; i++) {
        const double x = (double)(i % 97) / 64 - 0.5;
        if (dtype == FA_FLOAT32)
            ((float *)numbers)[i] = (float)x;
        else
            ((double *)numbers)[i] = x;
    }
}

static void *train(void *argument)
{
    work *w = argument;
    const fa_hyper hyper = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .alpha = 0.99,
                            .momentum = 0.9, .psi = 0.9998, .ema_decay = 0.9};
    const int64_t sizes[ARRAYS] = {LARGE, SMALL, 1};
    const int states = fa_states_kept(w->rule, &hyper);
    fa_array arrays[ARRAYS] = {0};
    fa_job jobs[ARRAYS] = {0};
    int64_t blocks = 0;
    for (int i = 0; i < ARRAYS; i++) {
        const size_t bytes = (size_t)(sizes[i] * fa_real_size(w->dtype));
        void *grad = allocate(bytes);
        fill(grad, sizes[i], w->dtype);
        arrays[i] = (fa_array){.size = sizes[i], .dtype = w->dtype, .numbers = {1}};
        arrays[i].streams.param = allocate(bytes);
        arrays[i].streams.average = allocate(bytes);
        for (int k = 0; k < FA_STATES; k++)
            if (states >> k & 1)
                arrays[i].streams.state[k] = allocate(bytes);
        jobs[i] = (fa_job){.array = &arrays[i], .grad = grad, .size = sizes[i]};
        blocks += fa_blocks(&jobs[i]);
    }
    fa_batch batch = {
        .isa = w->isa, .rule = w->rule, .groups = &hyper, .jobs = jobs, .n_jobs = ARRAYS,
        .loss_scale = 1, .norm = FA_MEASURED, .max_grad_norm = 10,
        .constants = allocate(ARRAYS * fa_constants_size()),
        .sums = allocate((size_t)blocks * sizeof(double)),
    };
    for (int step = 0; step < STEPS; step++) {
        batch.threads = fa_get_num_threads();
        fa_step(&batch);
    }
    w->result = hash(14695981039346656037u, &batch.grad_norm, sizeof batch.grad_norm);
    for (int i = 0; i < ARRAYS; i++) {
        const size_t bytes = (size_t)(sizes[i] * fa_real_size(w->dtype));
        w->result = hash(w->result, arrays[i].streams.param, bytes);
        w->result = hash(w->result, arrays[i].streams.average, bytes);
        free(arrays[i].streams.param);
        free(arrays[i].streams.average);
        for (int k = 0; k < FA_STATES; k++)
            free(arrays[i].streams.state[k]);
        free((void *)(uintptr_t)jobs[i].grad);
    }
    free(batch.constants);
    free(batch.sums);
    return NULL;
}

static void *set(void *argument)
{
    (void)argument;
    for (int n = 0; !__atomic_load_n(&stop, __ATOMIC_SEQ_CST); n++)
        fa_set_num_threads(n % 4);
    return NULL;
}

static pthread_t started(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument))
        abort();
    return thread;
}

int main(void)
{
    int failures = 0;
    fa_get_num_threads(); /* as a binding does when it is loaded */
    for (int rule = 0; fa_rule_name(rule); rule++)
        for (int dtype = 0; dtype < FA_DTYPES; dtype++) {
            pthread_t threads[THREADS], setter;
            work works[THREADS], alone = {.rule = rule, .dtype = dtype, .isa = fa_best_isa()};
            train(&alone);
            __atomic_store_n(&stop, 0, __ATOMIC_SEQ_CST);
            setter = started(set, NULL);
            for (int i = 0; i < THREADS; i++) {
                works[i] = alone;
                threads[i] = started(train, &works[i]);
            }
            for (int i = 0; i < THREADS; i++) {
                pthread_join(threads[i], NULL);
                failures += works[i].result != alone.result;
            }
            __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
            pthread_join(setter, NULL);
        }
    printf("threads: %s\n", failures ? "other bytes" : "all the same");
    return failures != 0;
}
