/* The checks of one function of csrc/root.h; root.c includes this once for each, with
       NAME, REAL, BITS   such as float32x16, float and uint32_t
       LANES, DIGITS      of a vector and of a number's significand
       LEAST              the least x that is not left to the CPU's instruction
       SQRT, ESTIMATE     the CPU's instructions
       ERROR              the relative error of ESTIMATE, as its makers promise
       ROOT, ROOT_FROM    the function, alone and from a given estimate
       END                what is small enough to be tried with every second argument,
       END_NEAR           which is near this divided by sqrt(x),
       END_ERROR          with at most this relative error. */
#define FN(name) JOIN(name, NAME)
#define NORMAL ((uint64_t)1 << (DIGITS - 1)) /* the bits of the smallest such number */
#define INFINITE ((((uint64_t)1 << (8 * sizeof(REAL) - DIGITS)) - 1) << (DIGITS - 1))

typedef REAL FN(vector) __attribute__((vector_size(LANES * sizeof(REAL))));
typedef BITS FN(words) __attribute__((vector_size(LANES * sizeof(REAL))));

static REAL FN(number)(uint64_t bits)
{
    const BITS b = (BITS)bits;
    REAL x;
    memcpy(&x, &b, sizeof x);
    return x;
}

static BITS FN(bits)(REAL x)
{
    BITS b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static int FN(any)(FN(words) words)
{
    BITS any = 0;
    for (int lane = 0; lane < LANES; lane++)
        any |= words[lane];
    return any != 0;
}

static void FN(expect_roots)(FN(vector) found, FN(vector) x, FN(vector) from)
{
    const FN(vector) right = (FN(vector))SQRT(x);
    const FN(words) differ = (FN(words))found ^ (FN(words))right;
    if (!FN(any)(differ))
        return;
    for (int lane = 0; lane < LANES; lane++)
        if (differ[lane] && ++failures <= 20)
            printf("the root of %a came out as %a instead of %a, from %a\n", (double)x[lane],
                   (double)found[lane], (double)right[lane], (double)from[lane]);
}

/* The root of a number, in a vector with those before and after it: from the CPU's estimates,
   and from others that are as good as promised. */
static void FN(try)(REAL number)
{
    static FN(vector) x;
    static int n;
    x[n++] = number;
    tried++;
    if (n < LANES)
        return;
    n = 0;
    FN(vector) y = (FN(vector))ESTIMATE(x);
    FN(expect_roots)((FN(vector))ROOT(x), x, y);
    for (int lane = 0; lane < LANES; lane++) {
        if (!(x[lane] >= LEAST && x[lane] < (REAL)INFINITY))
            continue;
        const double root = sqrt((double)x[lane]);
        if (!(fabs((double)y[lane] * root - 1) <= ERROR) && ++failures <= 20)
            printf("the CPU's estimate for %a is %a, which is worse than promised\n",
                   (double)x[lane], (double)y[lane]);
        y[lane] = (REAL)((1 + ERROR * random_error()) / root);
    }
    FN(expect_roots)((FN(vector))ROOT_FROM(x, y), x, y);
}

static REAL FN(ordinary)(void)
{
    const uint64_t least = FN(bits)(LEAST);
    return FN(number)(least + random_bits() % (INFINITE - least));
}

/* Zeros and what is left to the CPU, in every place of a vector. */
static void FN(try_mixtures)(int n)
{
    const REAL odd[] = {
        -(REAL)0, -1, -LEAST, LEAST / 16, FN(number)(NORMAL), FN(number)(NORMAL - 1),
        -FN(number)(NORMAL - 1), FN(number)(1), -FN(number)(1), FN(number)(INFINITE - 1),
        -FN(number)(INFINITE - 1), FN(number)(INFINITE), -FN(number)(INFINITE),
        FN(number)(INFINITE + 1), (REAL)NAN, -(REAL)NAN,
    };
    const int kinds = sizeof odd / sizeof odd[0];
    for (int kind = 0; kind < kinds; kind++)
        for (int place = 0; place < LANES; place++)
            for (int zeros = 0; zeros < 2; zeros++)
                for (int lane = 0; lane < LANES; lane++)
                    FN(try)(lane == place ? odd[kind] : zeros ? 0 : FN(ordinary)());
    for (int i = 0; i < n; i++) {
        const uint64_t choice = random_bits() % 64;
        FN(try)(choice == 0 ? odd[random_bits() % kinds] : choice < 20 ? 0 : FN(ordinary)());
    }
}

/* Around all powers of two, the ends of the range among them, and around squares. */
static void FN(try_neighbours)(int n)
{
    for (uint64_t power = 0; power <= INFINITE; power += NORMAL)
        for (int i = -64; i < 64; i++)
            FN(try)(FN(number)(power + (uint64_t)(int64_t)i));
    for (int i = 0; i < n; i++) {
        const uint64_t root = random_bits() >> (64 - DIGITS / 2) | 1;
        FN(try)(FN(number)(FN(bits)((REAL)(root * root)) + random_bits() % 3 - 1));
    }
}

/* Numbers of the range, and vectors of one exponent that is below it. */
static void FN(try_random)(int n)
{
    for (int i = 0; i < n; i += 2 * LANES) {
        for (int lane = 0; lane < LANES; lane++)
            FN(try)(FN(ordinary)());
        const uint64_t exponent = random_bits() % FN(bits)(LEAST) / NORMAL * NORMAL;
        for (int lane = 0; lane < LANES; lane++)
            FN(try)(FN(number)(exponent + random_bits() % NORMAL));
    }
}

/* The root of this number beside zeros does not come from the CPU's instruction: a wrong
   estimate shows. */
static void FN(expect_estimated)(REAL number)
{
    const FN(vector) x = {number};
    FN(vector) y = (FN(vector))ESTIMATE(x);
    y[0] *= (REAL)0.75;
    const FN(vector) found = (FN(vector))ROOT_FROM(x, y), right = (FN(vector))SQRT(x);
    if (found[0] == right[0] && ++failures <= 20)
        printf("the root of %a beside zeros came from the CPU's instruction\n", (double)number);
}

/* The root of a number, from everything that END may be given. */
static void FN(try_every)(REAL number)
{
    FN(vector) x = {0};
    FN(words) places = {0}, differ = {0};
    for (int lane = 0; lane < LANES; lane++) {
        x[lane] = number;
        places[lane] = (BITS)lane;
    }
    const FN(vector) right = (FN(vector))SQRT(x);
    const double near = END_NEAR / sqrt((double)number);
    const BITS first = FN(bits)((REAL)((1 - END_ERROR) * near)) - 1;
    const BITS last = FN(bits)((REAL)((1 + END_ERROR) * near)) + 1;
    tried += last - first + 1;
    for (BITS i = first; i <= last; i += LANES)
        differ |= (FN(words))END(x, (FN(vector))(places + i)) ^ (FN(words))right;
    if (!FN(any)(differ))
        return;
    for (BITS i = first; i <= last; i += LANES) {
        const FN(vector) from = (FN(vector))(places + i);
        FN(expect_roots)((FN(vector))END(x, from), x, from);
    }
}

static void FN(check)(int full)
{
    const int n = full ? 1 << 26 : 1 << 19;
    puts(TEXT(ROOT));
    FN(expect_estimated)(1);
    FN(expect_estimated)((REAL)1.001 * LEAST);
    FN(expect_estimated)(FN(number)(INFINITE - NORMAL - 1));
    for (int flush = 0; flush < 2; flush++) {
        const unsigned mode = _mm_getcsr();
        if (flush) /* subnormals to zero, arguments and results */
            _mm_setcsr(mode | 0x8040);
        FN(try_mixtures)(n);
        FN(try_neighbours)(n);
        FN(try_random)(n);
        _mm_setcsr(mode);
        report(flush ? "the same, subnormals flushed to zero" : "mixtures, neighbours, random");
    }
#if DIGITS == 24
    const uint64_t step = full ? 1 : 61, one = FN(bits)(1), four = FN(bits)(4);
    for (uint64_t bits = 0; bits >> 32 == 0; bits += step)
        FN(try)(FN(number)(bits));
    report(full ? "every float" : "one float in 61");
    for (uint64_t bits = one; bits < four;) {
        FN(try_every)(FN(number)(bits));
        bits += bits - one < 64 || four - bits <= 64 + step ? 1 : step;
    }
    report("floats from 1 to 4, from every estimate");
#endif
}

#undef NAME
#undef REAL
#undef BITS
#undef LANES
#undef DIGITS
#undef LEAST
#undef SQRT
#undef ESTIMATE
#undef ERROR
#undef ROOT
#undef ROOT_FROM
#undef END
#undef END_NEAR
#undef END_ERROR
#undef FN
#undef NORMAL
#undef INFINITE
