/* Questions about the CPU, one for each instruction set: may this process run it? */
#ifndef FASTADAM_CPU_H
#define FASTADAM_CPU_H

int fa_cpu_baseline(void); /* yes */
int fa_cpu_avx2(void);
int fa_cpu_avx512(void);

/* Are its wide square roots so slow that multiplications overtake them (root.h)? */
int fa_cpu_slow_roots(void);

#endif
