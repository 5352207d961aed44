/* Sums of equal rows of a gradient. */
#include "guards.h"

#include "impl.h"

#define SUM_ROWS(name, real) \
    static void name(real *sums, const real *values, int64_t width, const int64_t *order, \
                     const int64_t *starts, int64_t n) \
    { \
        for (int64_t j = 0; j < n; j++, sums += width) { \
            const real *row = values + order[starts[j]] * width; \
            for (int64_t i = 0; i < width; i++) \
                sums[i] = row[i]; \
            for (int64_t k = starts[j] + 1; k < starts[j + 1]; k++) { \
                row = values + order[k] * width; \
                for (int64_t i = 0; i < width; i++) \
                    sums[i] = sums[i] + row[i]; \
            } \
        } \
    }
SUM_ROWS(sum_float32, float)
SUM_ROWS(sum_float64, double)

void fa_merge_rows(int dtype, void *sums, const void *values, int64_t width, const int64_t *order,
                   const int64_t *starts, int64_t n)
{
    if (dtype == FA_FLOAT32)
        sum_float32(sums, values, width, order, starts, n);
    else
        sum_float64(sums, values, width, order, starts, n);
}
