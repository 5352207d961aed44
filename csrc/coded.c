/* A step of arrays whose numbers are stored as codes: some of them at a time are decoded, stepped
   by the same kernels as all others, and encoded again. */
#include "guards.h"

#include <string.h>

#include "impl.h"

enum {
    BLOCK = FA_CODE_BLOCK, /* codes are decoded in whole blocks. */
    /* So many elements are in the first cache at a time. Large arrays share their offset to a page,
       so their lines compete for the same places: with parameters in half precision, and so with
       the most arrays, a step took 1.5 times as long with 12 blocks as with 4. To ask for the next
       ones early brought nothing (Zen 4). */
    DECODED = 8 * BLOCK,
    DECODED_PARAMS = 4 * BLOCK
};
_Static_assert(FA_BLOCK % BLOCK == 0, "no two threads may have parts of a block");

enum { PARAM, REST, AVERAGE, GRAD, STATE, STREAMS = STATE + FA_STATES };

/* The bytes of a block of each codec. */
static const int64_t block_bytes[FA_CODECS] = {
    [FA_PLAIN] = BLOCK * sizeof(float),
    [FA_BFLOAT16] = BLOCK * sizeof(uint16_t),
    [FA_FLOAT16] = BLOCK * sizeof(uint16_t),
    [FA_POSITIVE8] = BLOCK + 1,
    [FA_SIGNED8] = BLOCK + 1,
};

/* The streams of a job from the next element on, and room for the numbers of some. */
typedef struct {
    char *at[STREAMS];
    int codec[STREAMS];
    uint32_t dither[FA_STATES]; /* what decides how the next element is rounded */
    int coded[FA_STATES], n_coded; /* the states that are codes; units before what is in them */
    int64_t most; /* elements at a time */
    float *param, *grad, *state[FA_STATES]; /* side by side, lest they compete, too */
    _Alignas(FA_LINE) float numbers[(2 + FA_STATES) * DECODED];
} fa_room;

/* The finalizer of Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014,
   with the constants of splitmix64. */
static uint64_t mixed(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* It depends on nothing but the seed, the step, the state and the element's place in the whole
   array. */
static uint32_t dither_of(const fa_batch *batch, const fa_job *job, int state, int64_t at)
{
    const uint64_t seed = (uint64_t)batch->groups[job->array->group].seed;
    const uint64_t step = (uint64_t)job->constants->step;
    const uint64_t key = mixed(mixed(mixed(seed) + step) + (uint64_t)state) >> 32;
    return (uint32_t)key + (uint32_t)(job->array->origin + at) * FA_DITHER_STEP;
}

static void begin(fa_room *room, const fa_batch *batch, const fa_job *job, int64_t at, int64_t from)
{
    const fa_streams *streams = &job->array->streams;
    const fa_format *format = &job->array->format;
    char *first[STREAMS] = {streams->param, streams->rest, streams->average, (char *)job->grad};
    room->codec[PARAM] = format->param;
    room->codec[REST] = format->param == FA_BFLOAT16 ? FA_BFLOAT16 : FA_PLAIN; /* 2 or 4 bytes */
    room->codec[AVERAGE] = FA_PLAIN;
    room->codec[GRAD] = job->codec;
    room->n_coded = 0;
    room->most = format->param == FA_PLAIN ? DECODED : DECODED_PARAMS;
    float *free = room->numbers;
    if (format->param == FA_BFLOAT16)
        free = (room->param = free) + room->most;
    if (job->codec != FA_PLAIN)
        free = (room->grad = free) + room->most;
    for (int k = 0; k < FA_STATES; k++) {
        first[STATE + k] = streams->state[k];
        room->codec[STATE + k] = format->state[k];
        room->dither[k] = dither_of(batch, job, k, at);
    }
    for (int has_unit = 0; has_unit <= 1; has_unit++)
        for (int k = 0; k < FA_STATES; k++)
            if (streams->state[k] && format->state[k] && (format->unit[k] != 0) == has_unit) {
                room->coded[room->n_coded++] = k;
                free = (room->state[k] = free) + room->most;
            }
    for (int s = 0; s < STREAMS; s++) { /* 8 bits begin with a block, all others in any place */
        const int64_t element = s == GRAD ? from : at, bytes = block_bytes[room->codec[s]];
        const int64_t rest = element % BLOCK * (bytes / BLOCK);
        room->at[s] = first[s] ? first[s] + element / BLOCK * bytes + rest : 0;
    }
}

static fa_units units_of(const fa_room *room, const fa_format *format, int k)
{
    static const uint8_t ones[BLOCK + 1];
    const int unit = format->unit[k];
    const fa_units none = {ones, 0, 0};
    const fa_units found = {(uint8_t *)room->at[STATE + unit - 1], BLOCK + 1, format->root};
    return unit ? found : none;
}

static void decode(fa_room *room, const fa_codecs *codecs, const fa_format *format, int64_t n)
{
    if (format->param == FA_BFLOAT16)
        codecs->decode_param_bfloat16(room->param, room->at[PARAM], room->at[REST], n);
    else if (format->param == FA_FLOAT16)
        codecs->decode_param_float16(room->at[REST], room->at[PARAM], n);
    if (room->codec[GRAD] != FA_PLAIN)
        codecs->decode[room->codec[GRAD]](room->grad, room->at[GRAD], n, 0);
    for (int i = 0; i < room->n_coded; i++) {
        const int k = room->coded[i];
        const fa_units units = units_of(room, format, k);
        codecs->decode[format->state[k]](room->state[k], room->at[STATE + k], n, &units);
    }
}

static void encode(fa_room *room, const fa_codecs *codecs, const fa_format *format, int64_t n)
{
    if (format->param == FA_BFLOAT16)
        codecs->encode_param_bfloat16(room->at[PARAM], room->at[REST], room->param, n);
    else if (format->param == FA_FLOAT16)
        codecs->encode_param_float16(room->at[PARAM], room->at[REST], n);
    for (int i = 0; i < room->n_coded; i++) {
        const int k = room->coded[i];
        const fa_units units = units_of(room, format, k);
        codecs->encode[format->state[k]](room->at[STATE + k], room->state[k], n, &units,
                                         room->dither[k]);
    }
}

/* A step of the next n elements, of the n rounded up to whole blocks that are there. */
static void step_next(fa_room *room, const fa_batch *batch, const fa_job *job, int64_t n)
{
    const fa_kernels *kernels = fa_kernels_of(batch, job);
    const fa_codecs *codecs = fa_isas[batch->isa].codecs;
    const fa_format *format = &job->array->format;
    const int64_t whole = (n + BLOCK - 1) / BLOCK * BLOCK;
    decode(room, codecs, format, whole);
    fa_streams streams = {.average = room->at[AVERAGE]};
    streams.param = format->param == FA_PLAIN      ? room->at[PARAM]
                    : format->param == FA_BFLOAT16 ? (void *)room->param
                                                   : room->at[REST];
    for (int k = 0; k < FA_STATES; k++)
        streams.state[k] = room->at[STATE + k];
    for (int i = 0; i < room->n_coded; i++)
        streams.state[room->coded[i]] = room->state[room->coded[i]];
    const void *grad = room->codec[GRAD] ? (void *)room->grad : room->at[GRAD];
    const fa_view view = {&streams, 0, grad, job->constants};
    kernels->rules[batch->rule](&view, n, 0);
    if (streams.average)
        kernels->average(&view, n, 0);
    for (int i = 0; n < whole && i < room->n_coded; i++) /* lest what is not there be the largest */
        memset(room->state[room->coded[i]] + n, 0, (size_t)(whole - n) * sizeof(float));
    encode(room, codecs, format, whole);
}

static void advance(fa_room *room, int64_t n)
{
    for (int s = 0; s < STREAMS; s++)
        if (room->at[s])
            room->at[s] += n / BLOCK * block_bytes[room->codec[s]];
    for (int k = 0; k < FA_STATES; k++)
        room->dither[k] += (uint32_t)n * FA_DITHER_STEP;
}

/* The next n elements, which are less than a block and have other memory behind them. */
static void step_last(fa_room *room, const fa_batch *batch, const fa_job *job, int64_t n)
{
    char blocks[STREAMS][BLOCK * sizeof(float)] = {{0}};
    char *at[STREAMS];
    size_t bytes[STREAMS];
    for (int s = 0; s < STREAMS; s++) {
        const int64_t block = block_bytes[room->codec[s]];
        bytes[s] = (size_t)(block % BLOCK ? block : n * (block / BLOCK));
        at[s] = room->at[s];
        if (at[s])
            room->at[s] = memcpy(blocks[s], at[s], bytes[s]);
    }
    step_next(room, batch, job, n);
    for (int s = 0; s < STREAMS; s++)
        if (at[s] && s != GRAD)
            memcpy(at[s], blocks[s], bytes[s]);
}

void fa_step_coded(const fa_batch *batch, const fa_job *job, int64_t at, int64_t from, int64_t n)
{
    fa_room room;
    begin(&room, batch, job, at, from);
    for (int64_t some; n >= BLOCK; n -= some) {
        some = n < room.most ? n / BLOCK * BLOCK : room.most;
        step_next(&room, batch, job, some);
        advance(&room, some);
    }
    if (n > 0)
        step_last(&room, batch, job, n);
}
