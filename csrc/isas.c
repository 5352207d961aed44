/* The table of instruction sets. setup.py, which knows what the compiler took, defines
   FA_COMPILED as X(name, cpu, pays) for each set, best first, with two questions of cpu.h: may
   this CPU run it, and is it, where it may, better than those that follow? */
#include "guards.h"

#include "cpu.h"
#include "impl.h"

#define X(name, cpu, pays) \
    extern const fa_kernels fa_kernels_##name##_float32, fa_kernels_##name##_float64;
FA_COMPILED
#undef X

#define X(name, cpu, pays) \
    {#name, \
     fa_cpu_##cpu, \
     fa_cpu_##pays, \
     {&fa_kernels_##name##_float32, &fa_kernels_##name##_float64}},
const fa_isa fa_isas[] = {FA_COMPILED{0}};
#undef X

const char *fa_isa_name(int isa) { return fa_isas[isa].name; }

int fa_cpu_has(int isa) { return fa_isas[isa].cpu_has(); }

int fa_best_isa(void)
{
    int isa = 0;
    while (!fa_isas[isa].cpu_has() || !fa_isas[isa].pays())
        isa++;
    return isa;
}
