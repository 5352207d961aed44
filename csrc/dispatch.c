/* The tables of rules and of instruction sets. setup.py, which knows what the compiler
   took, defines FA_COMPILED as X(name, cpu) for each set, best first. */
#include "cpu.h"
#include "fastadam.h"

#define NAME(rule, RULE) #rule,
const char *const fa_rule_names[FA_N_RULES] = {FA_RULES(NAME)};

#define X(name, cpu) extern const fa_kernels fa_kernels_##name##_float32, fa_kernels_##name##_float64;
FA_COMPILED
#undef X

#define X(name, cpu) \
    {#name, fa_cpu_##cpu, {&fa_kernels_##name##_float32, &fa_kernels_##name##_float64}},
const fa_isa fa_isas[] = {FA_COMPILED{0}};
#undef X
