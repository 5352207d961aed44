/* One question for each instruction set: may this process run it? */
#ifndef FASTADAM_CPU_H
#define FASTADAM_CPU_H

int fa_cpu_baseline(void);
int fa_cpu_avx2(void);
int fa_cpu_avx512(void);

#endif
