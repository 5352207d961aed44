/* What csrc/ takes of the C library's headers, for a compiler that has none. */
#define INFINITY __builtin_inff()
#define isfinite(x) ((x) - (x) == 0)
float fabsf(float), sqrtf(float);
double fabs(double), frexp(double, int *), ldexp(double, int), pow(double, double), sqrt(double);
