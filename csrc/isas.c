/* The table of instruction sets. setup.py, which knows what the compiler took, defines
   FA_COMPILED as X(name, cpu) for each set, best first. */
#include "guards.h"

#include "cpu.h"
#include "impl.h"

#define X(name, cpu) \
    extern const fa_kernels fa_kernels_##name##_float32, fa_kernels_##name##_float64;
FA_COMPILED
#undef X

#define X(name, cpu) \
    {#name, fa_cpu_##cpu, {&fa_kernels_##name##_float32, &fa_kernels_##name##_float64}},
const fa_isa fa_isas[] = {FA_COMPILED{0}};
#undef X

const char *fa_isa_name(int isa) { return fa_isas[isa].name; }

int fa_cpu_has(int isa) { return fa_isas[isa].cpu_has(); }
