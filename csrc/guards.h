/* What the promise of bits asks of a compiler, included first by every file here: each
   operation rounded once, in its own type, in the order written. */
#ifndef FASTADAM_GUARDS_H
#define FASTADAM_GUARDS_H

#include <float.h>

/* -ffast-math, /fp:fast and their parts let a compiler reorder operations, or take
   infinities, NaNs and negative zeros for impossible. Clang names no part but the one about
   infinities and NaNs. */
#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || defined(__ASSOCIATIVE_MATH__) || \
    defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "fastadam gives other results under -ffast-math (/fp:fast) and its parts"
#endif

/* x87 registers keep more digits than a float or double has, and round twice. */
_Static_assert(FLT_EVAL_METHOD == 0, "float and double must be computed as such; "
                                     "on 32-bit x86 use -msse2 -mfpmath=sse");

_Static_assert(FLT_RADIX == 2 && sizeof(float) == 4 && FLT_MANT_DIG == 24 &&
                   sizeof(double) == 8 && DBL_MANT_DIG == 53,
               "float and double must be binary32 and binary64 of IEEE 754");

/* A multiplication and an addition must not become one operation. Clang and MSVC listen to a
   pragma, Clang unless it was told -ffp-contract=fast. GCC ignores the pragma and needs
   -ffp-contract=off, of which no macro tells: tests/test_objects.py looks for fused
   operations in what was compiled. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#endif
