/* Are the roots of csrc/root.h those of the CPU? docs/square-root.md says what this proves.
   By hand, in the top folder:

       gcc -O2 -mavx512f -ffp-contract=off tests/c/root.c -o root -lm && ./root --full

   Without --full fewer numbers are tried: seconds instead of minutes. What is wrong is printed,
   and then the status is 1. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../../csrc/root.h"

static long long failures;
static uint64_t tried; /* roots since the last report */

static void report(const char *what)
{
    static double before;
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    const double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    if (what)
        printf("  %-44s %14llu roots %6.1f s\n", what, (unsigned long long)tried, seconds - before);
    fflush(stdout);
    before = seconds;
    tried = 0;
}

static uint64_t random_bits(void) /* Steele, Lea & Flood's splitmix64 */
{
    static uint64_t state;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* From -1 to 1, and one in four is -1, 0 or 1. */
static double random_error(void)
{
    const uint64_t bits = random_bits();
    return bits % 4 ? (double)(int64_t)bits * 0x1p-63 : (double)(bits / 4 % 3) - 1;
}

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

#define NAME float64x8
#define REAL double
#define BITS uint64_t
#define LANES 8
#define DIGITS 53
#define LEAST 0x1p-958
#define SQRT _mm512_sqrt_pd
#define ESTIMATE _mm512_rsqrt14_pd
#define ERROR 0x1p-14
#define ROOT root_float64x8
#define ROOT_FROM root_float64x8_from
#define END root_float64x8_end
#define END_NEAR 0.5
#define END_ERROR 0x1p-27
#include "root_checks.h"

/* The numbers x from 1 to 4 whose roots are near m / 2^53 for an odd m of 54 bits, halfway
   between two numbers of 53 bits: with X = 2^104 x, m^2 is 4 X + j for a small j. X is a
   multiple of 2^52 if x < 2, and else of 2^53, so m^2 = j modulo 2^54 or 2^55. That has four
   solutions where j = 1 modulo 8, and none for another odd j. */
static int hard_cases(int j, double x[8])
{
    const uint64_t square = (uint64_t)(int64_t)j;
    int n = 0;
    for (int bits = 54; bits <= 55; bits++) {
        uint64_t root = 1; /* root^2 = j modulo 2^bit */
        for (int bit = 3; bit < bits; bit++)
            if ((root * root - square) >> bit & 1)
                root += (uint64_t)1 << (bit - 1);
        for (int i = 0; i < 4; i++) {
            const uint64_t other = (i & 1 ? -root : root) + ((uint64_t)(i >> 1) << (bits - 1));
            const uint64_t m = other & (((uint64_t)1 << bits) - 1);
            const unsigned __int128 X = ((unsigned __int128)m * m - (unsigned __int128)j) >> 2;
            if (m >> 53 == 1 && X >> (bits + 50) == 1)
                x[n++] = ldexp((double)X, -104);
        }
    }
    return n;
}

/* Only |j| < 81 could go wrong. */
static void check_hard_cases(int full)
{
    static const int exponents[] = {-958, -956, -500, -2, 0, 2, 500, 1020};
    const int most = full ? 1024 : 96, random = full ? 1 << 18 : 1 << 14;
    double x[8];
    int cases = 0;
    for (int j = -most; j <= most; j++)
        for (int i = (j & 7) == 1 ? hard_cases(j, x) : 0; i-- > 0; cases++)
            try_every_float64x8(x[i]);
    printf("  %d hard cases\n", cases);
    report("each from every h");
    for (int j = -most; j <= most; j++)
        for (int i = (j & 7) == 1 ? hard_cases(j, x) : 0; i-- > 0;)
            for (int n = 0; n < 8 * random; n++)
                try_float64x8(ldexp(x[i], exponents[n / random]));
    report("each with several exponents, from estimates");
}

#define NAME float32x16
#define REAL float
#define BITS uint32_t
#define LANES 16
#define DIGITS 24
#define LEAST 0x1p-90f
#define SQRT _mm512_sqrt_ps
#define ESTIMATE _mm512_rsqrt14_ps
#define ERROR 0x1p-14
#define ROOT root_float32x16
#define ROOT_FROM root_float32x16_from
#define END root_float32x16_from
#define END_NEAR 1
#define END_ERROR ERROR
#include "root_checks.h"

/* Not in main, whose first lines must run on every CPU. */
static __attribute__((noinline)) void check(int full)
{
    report(NULL);
    check_float64x8(full);
    check_hard_cases(full);
    check_float32x16(full);
}

int main(int count, char **arguments)
{
    if (!__builtin_cpu_supports("avx512f")) {
        puts("this CPU lacks the instructions");
        return 0;
    }
    check(count > 1 && strcmp(arguments[1], "--full") == 0);
    printf("%lld roots were wrong\n", failures);
    return failures != 0;
}
