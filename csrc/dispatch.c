/* The table of instruction sets. setup.py, which knows what the compiler took,
   defines FA_COMPILED as X(name, cpu) for each, best first. */
#include "cpu.h"
#include "fastadam.h"

#define X(name, cpu) \
    fa_kernel fa_adam_##name##_float32, fa_adam_##name##_float64; \
    fa_kernel fa_streams_##name##_float32, fa_streams_##name##_float64; \
    fa_sum fa_sum_squares_##name##_float32, fa_sum_squares_##name##_float64;
FA_COMPILED
#undef X

#define X(name, cpu) \
    {#name, \
     fa_cpu_##cpu, \
     {fa_adam_##name##_float32, fa_adam_##name##_float64}, \
     {fa_streams_##name##_float32, fa_streams_##name##_float64}, \
     {fa_sum_squares_##name##_float32, fa_sum_squares_##name##_float64}},
const fa_isa fa_isas[] = {FA_COMPILED{0}};
#undef X
