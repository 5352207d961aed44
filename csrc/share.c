/* Jobs shared among threads, from OpenMP where the compiler has it. */
#include "guards.h"

#include "impl.h"

#ifdef _OPENMP

#include <math.h>
#include <omp.h>
#ifndef _WIN32
#include <pthread.h>
#endif

const char fa_threading[] = "OpenMP";

/* Threads that wait for work spin, and start at once; after some milliseconds they sleep,
   and waking them takes some 80 us. With this many elements for each, two threads take
   0.6 times as long as one if they spin, 1.1 times if they sleep (bench/threads.py). */
enum { ELEMENTS_A_THREAD = 131072 };

/* Threads may read a number while another sets it. MSVC reads and writes a volatile one whole. */
#ifdef __STDC_NO_ATOMICS__
typedef volatile int shared_int;
#else
typedef _Atomic int shared_int;
#endif

static shared_int requested; /* by the user; 0: as many as OpenMP would use */
static int at_start;         /* OpenMP's number before anybody limited it */
static int forked;

#ifndef _WIN32
/* libgomp's threads do not survive a fork, and it waits for them for ever. */
static void in_child(void) { forked = 1; }
#endif

int fa_get_num_threads(void)
{
    const int limit = omp_get_max_threads();
    if (!at_start) {
        at_start = limit;
#ifndef _WIN32
        pthread_atfork(0, 0, in_child);
#endif
    }
    if (forked)
        return 1;
    /* threadpoolctl limits through OpenMP; its limit holds over a request. */
    const int asked = requested;
    if (asked == 0 || (limit < at_start && limit < asked))
        return limit;
    return asked;
}

/* Where other work keeps the CPUs busy, threads wait, spinning, for those that have no CPU: two
   processes of two threads each on two CPUs took some 30 times as long as with one thread each
   (bench/contention.py). So after a step in which threads lost time, one thread does the steps for
   twice as long as was lost. If more is lost within as long a time after such a rest, the next one
   is twice as long; a disturbance that passes costs next to nothing. */
static const double LONGEST_REST = 4.0; /* s */
static const double WAKING = 3e-4;      /* s: threads that sleep may take as long to begin */
static double rest_begin, rest_end;

void fa_set_num_threads(int n)
{
    requested = n;
#pragma omp critical(fa_rest)
    rest_begin = rest_end = 0.0;
}

static int must_rest(void)
{
    double end;
#pragma omp critical(fa_rest)
    end = rest_end;
    return end > 0.0 && omp_get_wtime() < end;
}

/* Threads lost what a step took longer than all parts, one after the other, would have. */
static void note_lost_time(double begin, double shortest, int64_t parts)
{
    const double end = omp_get_wtime(), lost = end - begin - (double)parts * shortest;
    if (lost <= WAKING)
        return;
#pragma omp critical(fa_rest)
    {
        const double last = rest_end - rest_begin;
        const double next = begin - rest_end < last ? 2.0 * last : 2.0 * lost;
        rest_begin = end;
        rest_end = end + (next < LONGEST_REST ? next : LONGEST_REST);
    }
}

/* Where in a gradient the parts' border falls that is `elements` behind its begin. */
static int64_t border(int64_t elements, const fa_job *job)
{
    if (elements >= job->size)
        return job->size;
    const int64_t before = elements - (fa_offset(job) + elements) % FA_BLOCK;
    return before <= 0 ? 0 : before;
}

static void do_part(const fa_batch *batch, fa_piece *piece, int64_t first, int64_t last)
{
    int64_t offset = 0;
    for (int64_t i = 0; i < batch->n_jobs && offset < last; i++) {
        const fa_job *job = &batch->jobs[i];
        const int64_t begin = border(first - offset, job), end = border(last - offset, job);
        if (begin < end)
            piece(batch, job, begin, end);
        offset += job->size;
    }
}

static void do_together(const fa_batch *batch, fa_piece *piece, int64_t total, int64_t parts)
{
    const double begin = omp_get_wtime();
    double shortest = INFINITY;
    int64_t i; /* not in the loop: MSVC's OpenMP is 2.0 */
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (i = 0; i < parts; i++) {
        const double start = omp_get_wtime();
        do_part(batch, piece, total / parts * i, i + 1 < parts ? total / parts * (i + 1) : total);
        const double took = omp_get_wtime() - start;
#pragma omp critical(fa_shortest)
        shortest = took < shortest ? took : shortest;
    }
    note_lost_time(begin, shortest, parts);
}

#else

const char fa_threading[] = "none";

int fa_get_num_threads(void) { return 1; }

void fa_set_num_threads(int n) { (void)n; }

#endif

void fa_share(const fa_batch *batch, fa_piece *piece)
{
#ifdef _OPENMP
    int64_t total = 0;
    for (int64_t i = 0; i < batch->n_jobs; i++)
        total += batch->jobs[i].size;
    int64_t parts = total / ELEMENTS_A_THREAD;
    parts = parts < batch->threads ? parts : batch->threads;
    if (parts > 1 && !must_rest()) {
        do_together(batch, piece, total, parts);
        return;
    }
#endif
    for (int64_t i = 0; i < batch->n_jobs; i++)
        if (batch->jobs[i].size)
            piece(batch, &batch->jobs[i], 0, batch->jobs[i].size);
}
