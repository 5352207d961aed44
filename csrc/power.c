/* Powers that are the same double on every machine: the last bit of the C library's pow()
   depends on the library, and in glibc on the CPU. fastadam/_elementary.py has the same in
   Python. */
#include "guards.h"

#include <math.h>
#include <string.h>

#include "impl.h"

/* Only integers are multiplied, cut off 128 bits behind the point. Each product loses less than
   2^-128, so base^n is less than 2n * 2^-128 too small before it is rounded to double. Where `a` is
   a double, half of its digits are mostly zeros. */
static fa_fraction product(fa_fraction a, fa_fraction b)
{
    uint32_t digits[2 * FA_DIGITS] = {0};
    for (int i = 0; i < FA_DIGITS; i++) {
        uint64_t sum = 0;
        if (a.digits[i] == 0)
            continue;
        for (int j = 0; j < FA_DIGITS; j++) {
            sum += digits[i + j] + (uint64_t)a.digits[i] * b.digits[j];
            digits[i + j] = (uint32_t)sum;
            sum >>= 32;
        }
        digits[i + FA_DIGITS] = (uint32_t)sum;
    }
    fa_fraction upper;
    memcpy(upper.digits, digits + FA_DIGITS, sizeof upper.digits);
    return upper;
}

static fa_fraction fraction_of(double x)
{
    fa_fraction fraction;
    for (int i = FA_DIGITS; i-- > 0; x -= fraction.digits[i]) {
        x *= 0x1p32;
        fraction.digits[i] = (uint32_t)x;
    }
    return fraction;
}

static fa_fraction squared_up(fa_fraction base, int64_t n)
{
    fa_fraction x = base;
    int64_t bit = 1;
    while (bit <= n / 2)
        bit *= 2;
    while (bit /= 2) {
        x = product(x, x);
        if (n & bit)
            x = product(base, x);
    }
    return x;
}

/* The powers of a training follow one another. So each is the one before times the base, which
   takes as long as pow(), but at every 32nd step, and where the one before is not at hand: its
   bits are those of the way from the last multiple of 32. */
double fa_power(fa_power_memo *last, double base, int64_t n)
{
    enum { STRIDE = 32 };
    if (base == 1)
        return 1;
    const int64_t first = n < STRIDE ? 1 : n - n % STRIDE;
    if (last->base != base || last->n < first || last->n > n) {
        last->base = base;
        last->exact_base = fraction_of(base);
        last->n = first;
        last->power = squared_up(last->exact_base, first);
    }
    for (; last->n < n; last->n++)
        last->power = product(last->exact_base, last->power);
    /* 53 bits and 43 more become doubles without rounding, and their sum is rounded once. */
    const uint32_t *digits = last->power.digits;
    const uint64_t upper = (uint64_t)digits[3] << 32 | digits[2];
    const double head = (double)(upper >> 11), tail = (double)((upper & 2047) << 32 | digits[1]);
    return head * 0x1p-53 + tail * 0x1p-96;
}

/* A product of squares for the whole part of the exponent, and of roots for the binary digits
   behind the point: IEEE 754 fixes products and roots. Some 50 of them are off by less than 1e-14
   of the result. */
double fa_real_power(double base, double exponent)
{
    double power = 1, square = base, root = base;
    exponent = exponent < 0x1p62 ? exponent : 0x1p62;
    for (int64_t whole = (int64_t)exponent; whole; whole /= 2) {
        if (whole & 1)
            power *= square;
        square *= square;
    }
    for (double digits = exponent - floor(exponent); digits > 0; digits -= floor(digits)) {
        digits *= 2;
        root = sqrt(root);
        if (digits >= 1)
            power *= root;
    }
    return power;
}
