/* What the kernels share.
 *
 * Each does one inner loop of the matching on arrays of the caller, which has checked their shapes; none allocates, and
 * none keeps anything. The Python beside it (the module named in each file) says the same in numpy, and runs where this
 * was not compiled. Arrays are contiguous, rows first.
 */
#ifndef EFFICIENT_MATCHER_KERNELS_H
#define EFFICIENT_MATCHER_KERNELS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INTERFACE 3 /* goes up whenever a function's arguments change, here and in core/native.py */

#define INLINE static inline __attribute__((always_inline))

/* One library runs on every x86-64: the system's loader takes the best of a function's versions. Those of ARM all have the
 * vectors that matter here. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define KERNEL
#endif

#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

INLINE float smaller(float a, float b) { return a < b ? a : b; }
INLINE float larger(float a, float b) { return a > b ? a : b; }

#define LINE 16 /* floats of a cache line */
#define PADDED(count) (((count) + LINE - 1) & ~(int64_t)(LINE - 1))

#define WORD 8
#define FLAGS 64

/* WORD flags, each a byte of 0 or 1, the first one lowest. */
INLINE uint64_t word_of(const uint8_t *flags)
{
    uint64_t word;
    memcpy(&word, flags, sizeof word);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

/* Where in a row of flags one is, begun at {0, 0}: those set of the word before `next` that are still to come. */
typedef struct {
    uint64_t word;
    int64_t next;
} Scan;

/* The next flag that is set, of `count`, or count. Most are not, and are passed over together: FLAGS bytes of 0 follow the
 * last. */
INLINE int64_t next_set(Scan *scan, const uint8_t *flags, int64_t count)
{
    while (!scan->word) {
        uint64_t any = 0;
        if (scan->next >= count)
            return count;
        for (int k = 0; k < FLAGS && scan->next % FLAGS == 0; k += WORD)
            any |= word_of(flags + scan->next + k);
        if (scan->next % FLAGS == 0 && !any) {
            scan->next += FLAGS;
            continue;
        }
        scan->word = word_of(flags + scan->next);
        scan->next += WORD;
    }
    const int64_t found = scan->next - WORD + __builtin_ctzll(scan->word) / 8;
    scan->word &= scan->word - 1;
    return found;
}

/* Scores, at least 0, order as their bits do: a key that ascends from the best, equal ones by their number. */
INLINE int64_t key_of(float score, int64_t number)
{
    int32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return ~(int64_t)bits * ((int64_t)1 << 32) + number;
}

/* e^x to two units in the last place, in a form that compilers vectorise; 0 below the smallest normal number. Range
 * reduction to |r| <= ln 2 / 2 and the polynomial of Moshier's Cephes library. */
INLINE float exponential(float x)
{
    const float lowest = -87.33654f, highest = 88.37626f;
    float within = smaller(larger(x, lowest), highest);
    float power = within * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: what is added rounds to whole numbers */
    power -= 12582912.0f;
    float r = within - power * 0.693359375f;
    r -= power * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)power + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return x < lowest ? 0.0f : p * scale;
}

#endif
