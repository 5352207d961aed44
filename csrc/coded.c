/* A step of arrays whose numbers are stored as codes: where their blocks are, and those of them
   that are not whole. */
#include "guards.h"

#include <string.h>

#include "impl.h"

enum {
    BLOCK = FA_CODE_BLOCK,
    /* So many elements of 8 bits are in the first cache at a time. Large arrays share their offset
       to a page, so their lines compete for the same places: with 12 blocks a step took 1.5 times
       as long (Zen 4). */
    DECODED = 8 * BLOCK
};
_Static_assert(FA_BLOCK % BLOCK == 0, "no two threads may have parts of a block");

static int has_8_bits(int codec) { return codec == FA_POSITIVE8 || codec == FA_SIGNED8; }

/* The bytes of a block of each codec. */
static const int64_t block_bytes[FA_CODECS] = {
    [FA_PLAIN] = BLOCK * sizeof(float),
    [FA_BFLOAT16] = BLOCK * sizeof(uint16_t),
    [FA_FLOAT16] = BLOCK * sizeof(uint16_t),
    [FA_POSITIVE8] = BLOCK + 1,
    [FA_SIGNED8] = BLOCK + 1,
};

/* Those of n numbers; in 8 bits, of the blocks that they begin. */
static int64_t bytes_of(int codec, int64_t n)
{
    const int64_t bytes = block_bytes[codec];
    return has_8_bits(codec) ? (n + BLOCK - 1) / BLOCK * bytes : n * (bytes / BLOCK);
}

/* The finalizer of Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014,
   with the constants of splitmix64. */
static uint64_t mixed(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* What one element adds to what decides how a number with this code is rounded. */
static uint32_t dither_step(int codec)
{
    return codec == FA_BFLOAT16 ? FA_DITHER_STEP_16 : FA_DITHER_STEP;
}

/* It depends on nothing but the seed, the step, the state and the element's place in the whole
   array. bfloat16 takes the lower half of it, and of the hash the upper half. */
static uint32_t dither_of(const fa_batch *batch, const fa_job *job, int state, int64_t at)
{
    const int codec = job->array->format.state[state];
    const uint64_t seed = (uint64_t)batch->groups[job->array->group].seed;
    const uint64_t step = (uint64_t)job->constants->step;
    const uint32_t hash = (uint32_t)(mixed(mixed(mixed(seed) + step) + (uint64_t)state) >> 32);
    const uint32_t first = codec == FA_BFLOAT16 ? hash >> 16 : hash;
    return first + (uint32_t)(job->array->origin + at) * dither_step(codec);
}

enum { PARAM, REST, AVERAGE, GRAD, STATE, STREAMS = STATE + FA_STATES };

/* The streams of a job from the next element on. */
typedef struct {
    char *at[STREAMS];
    int codec[STREAMS];
    uint32_t dither[FA_STATES]; /* what decides how the next element is rounded */
} fa_place;

static fa_place begin(const fa_batch *batch, const fa_job *job, int64_t at, int64_t from)
{
    const fa_streams *streams = &job->array->streams;
    const fa_format *format = &job->array->format;
    fa_place place = {
        .at = {streams->param, streams->rest, streams->average, (char *)job->grad},
        .codec = {format->param, format->param == FA_BFLOAT16 ? FA_BFLOAT16 : FA_PLAIN, /* bytes */
                  FA_PLAIN, job->codec},
    };
    for (int k = 0; k < FA_STATES; k++) {
        place.at[STATE + k] = streams->state[k];
        place.codec[STATE + k] = format->state[k];
        place.dither[k] = dither_of(batch, job, k, at);
    }
    for (int s = 0; s < STREAMS; s++)
        if (place.at[s])
            place.at[s] += bytes_of(place.codec[s], s == GRAD ? from : at);
    return place;
}

static void advance(fa_place *place, int64_t blocks)
{
    for (int s = 0; s < STREAMS; s++)
        if (place->at[s])
            place->at[s] += blocks * block_bytes[place->codec[s]];
    for (int k = 0; k < FA_STATES; k++)
        place->dither[k] += (uint32_t)(blocks * BLOCK) * dither_step(place->codec[STATE + k]);
}

/* A step of n numbers, which are whole blocks; where all are plain, by the kernel for those, which
   is faster. */
static void step_halves(const fa_batch *batch, const fa_job *job, const fa_halves *halves,
                        int64_t n, int is_plain)
{
    const fa_kernels *kernels = fa_kernels_of(batch, job);
    if (!is_plain) {
        kernels->halves[batch->rule](halves, n);
        return;
    }
    fa_streams streams = {.param = halves->param, .average = halves->average};
    memcpy(streams.state, halves->state, sizeof streams.state);
    const fa_view view = {&streams, 0, halves->grad, job->constants};
    kernels->rules[batch->rule](&view, n, 0);
    if (streams.average)
        kernels->average(&view, n, 0);
}

static fa_units units_of(const fa_place *place, const fa_format *format, int k)
{
    static const uint8_t ones[BLOCK + 1];
    const int unit = format->unit[k];
    const fa_units none = {ones, 0, 0};
    const fa_units found = {(uint8_t *)place->at[STATE + unit - 1], BLOCK + 1, format->root};
    return unit ? found : none;
}

/* A step of the next n elements, which are whole blocks, but that of the last one only as many are
   there as `there` says. */
static void step_blocks(const fa_batch *batch, const fa_job *job, fa_place place, int64_t n,
                        int64_t there)
{
    const fa_codecs *codecs = fa_kernels_of(batch, job)->codecs;
    const fa_format *format = &job->array->format;
    _Alignas(FA_LINE) float room[FA_STATES][DECODED];
    int coded[FA_STATES], n_coded = 0; /* states in 8 bits; units before what is in them */
    int is_plain = place.codec[PARAM] == FA_PLAIN && place.codec[GRAD] == FA_PLAIN;
    fa_halves halves = {.param_codec = place.codec[PARAM], .grad_codec = place.codec[GRAD],
                        .constants = job->constants};
    for (int has_unit = 0; has_unit <= 1; has_unit++)
        for (int k = 0; k < FA_STATES; k++)
            if (place.at[STATE + k] && (format->unit[k] != 0) == has_unit) {
                if (has_8_bits(format->state[k]))
                    coded[n_coded++] = k;
                else
                    halves.state_codec[k] = format->state[k];
                is_plain &= halves.state_codec[k] == FA_PLAIN;
            }
    for (int64_t some; n > 0; n -= some, there -= some) {
        some = n_coded && n > DECODED ? DECODED : n;
        halves.param = place.at[PARAM];
        halves.rest = place.at[REST];
        halves.average = place.at[AVERAGE];
        halves.grad = place.at[GRAD];
        memcpy(halves.state, place.at + STATE, sizeof halves.state);
        memcpy(halves.dither, place.dither, sizeof halves.dither);
        for (int i = 0; i < n_coded; i++) {
            const int k = coded[i];
            const fa_units units = units_of(&place, format, k);
            codecs->decode[format->state[k]](room[k], place.at[STATE + k], some, &units);
            halves.state[k] = room[k];
        }
        step_halves(batch, job, &halves, some, is_plain);
        for (int i = 0; i < n_coded; i++) {
            const int k = coded[i];
            const fa_units units = units_of(&place, format, k);
            for (int64_t j = there; j < some; j++) /* lest what is not there be the largest */
                room[k][j] = 0;
            codecs->encode[format->state[k]](place.at[STATE + k], room[k], some, &units,
                                             place.dither[k]);
        }
        advance(&place, some / BLOCK);
    }
}

/* The next n elements, which are less than a block and have other memory behind them. */
static void step_last(const fa_batch *batch, const fa_job *job, fa_place place, int64_t n)
{
    _Alignas(FA_LINE) char copies[STREAMS][BLOCK * sizeof(float)] = {{0}};
    char *at[STREAMS];
    for (int s = 0; s < STREAMS; s++) {
        at[s] = place.at[s];
        if (at[s])
            place.at[s] = memcpy(copies[s], at[s], (size_t)bytes_of(place.codec[s], n));
    }
    step_blocks(batch, job, place, BLOCK, n);
    for (int s = 0; s < STREAMS; s++)
        if (at[s] && s != GRAD)
            memcpy(at[s], copies[s], (size_t)bytes_of(place.codec[s], n));
}

/* How many numbers come before the parameter's first cache line, where those of all others begin as
   well (state_like in fastadam/_slots.py): vectors that straddle lines cost 20 %. With 8 bits,
   blocks begin where they begin. */
static int64_t to_line(const fa_place *place)
{
    for (int k = 0; k < FA_STATES; k++)
        if (has_8_bits(place->codec[STATE + k]))
            return 0;
    const int64_t bytes = (int64_t)(-(uintptr_t)place->at[PARAM] % FA_LINE);
    return bytes / (block_bytes[place->codec[PARAM]] / BLOCK);
}

void fa_step_coded(const fa_batch *batch, const fa_job *job, int64_t at, int64_t from, int64_t n)
{
    fa_place place = begin(batch, job, at, from);
    const int64_t first = to_line(&place);
    if (0 < first && first < n) {
        step_last(batch, job, place, first);
        place = begin(batch, job, at + first, from + first);
        n -= first;
    }
    const int64_t blocks = n / BLOCK;
    if (blocks > 0)
        step_blocks(batch, job, place, blocks * BLOCK, blocks * BLOCK);
    advance(&place, blocks);
    if (n % BLOCK)
        step_last(batch, job, place, n % BLOCK);
}
