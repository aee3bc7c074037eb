#include "rows.h"

#include <string.h>

static int32_t dot_one_by_one(const int16_t *theta, const int16_t *x, uint32_t count)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += ((theta[i] + 128) >> 8) * x[i];
    }
    return sum;
}

#if defined(__ARM_FEATURE_DSP)

#include <arm_acle.h>

enum { UNROLLED = 8 };

static inline int16x2_t pair(const int16_t *at)
{
    int16x2_t both;
    memcpy(&both, at, sizeof both);
    return both;
}

/* The upper bytes of two halves, at once. */
static inline int16x2_t upper_bytes(int16x2_t halves)
{
    int16x2_t bytes;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(bytes) : "r"(halves));
    return bytes;
}

static inline int16x2_t packed(int32_t low, int32_t high)
{
    int16x2_t both;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(both) : "r"(low), "r"(high));
    return both;
}

static inline int32_t dot_pair(const int16_t *theta, const int16_t *x, int32_t sum)
{
    return __smlad(upper_bytes(__sadd16(pair(theta), 0x00800080)), pair(x), sum);
}

int32_t sl_row_dot(const int16_t *theta, const int16_t *x, uint32_t count)
{
    int32_t sum = 0;
    for (uint32_t i = count / UNROLLED; i > 0; i--, theta += UNROLLED, x += UNROLLED) {
        sum = dot_pair(theta, x, sum);
        sum = dot_pair(theta + 2, x + 2, sum);
        sum = dot_pair(theta + 4, x + 4, sum);
        sum = dot_pair(theta + 6, x + 6, sum);
    }
    return sum + dot_one_by_one(theta, x, count % UNROLLED);
}

/* Any error. */
static void move_one_by_one(int16_t *theta, const int16_t *x, int32_t error, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        theta[i] = sl_theta_clamped(theta[i] - ((error * x[i] + 2048) >> 12));
    }
}

/* (error_q5 * x) >> 16 of the two halves of x. */
static inline int16x2_t half_steps(int32_t error_q5, int16x2_t x)
{
    int32_t low, high;
    __asm__("smulwb %0, %1, %2" : "=r"(low) : "r"(error_q5), "r"(x));
    __asm__("smulwt %0, %1, %2" : "=r"(high) : "r"(error_q5), "r"(x));
    return packed(low, high);
}

/* Changes of +-16,320 at most: in half steps they take 16 bits, and floor((half steps + 1) / 2) is the rounded change. */
static inline void move_pair(int16_t *theta, const int16_t *x, int32_t error_q5)
{
    int16x2_t moved = __qsub16(pair(theta), __shadd16(half_steps(error_q5, pair(x)), 0x00010001));
    /* To +-32512, by saturation at 32767 and -32768. */
    moved = __qadd16(moved, 0x00FF00FF);
    moved = __qsub16(moved, 0x01FF01FF);
    moved = __sadd16(moved, 0x01000100);
    memcpy(theta, &moved, sizeof moved);
}

void sl_row_move(int16_t *theta, const int16_t *x, int32_t error, uint32_t count)
{
    const int32_t most = 1 << 18;
    if (error >= -most && error <= most) {
        const int32_t error_q5 = error * 32;
        for (uint32_t i = count / UNROLLED; i > 0; i--, theta += UNROLLED, x += UNROLLED) {
            move_pair(theta, x, error_q5);
            move_pair(theta + 2, x + 2, error_q5);
            move_pair(theta + 4, x + 4, error_q5);
            move_pair(theta + 6, x + 6, error_q5);
        }
        count %= UNROLLED;
    }
    move_one_by_one(theta, x, error, count);
}

#elif defined(__thumb__) && !defined(__thumb2__) && defined(__OPTIMIZE__)

/* Cortex-M0, M0+: eight registers, two operands. The index rises to 0, which ends the loop. */

#define TERM                                                                                                           \
    "ldrsh %[a], [%[theta], %[index]]\n\t"                                                                             \
    "ldrsh %[b], [%[x], %[index]]\n\t"                                                                                 \
    "adds %[a], #128\n\t"                                                                                              \
    "asrs %[a], %[a], #8\n\t"                                                                                          \
    "muls %[a], %[b]\n\t"                                                                                              \
    "adds %[sum], %[sum], %[a]\n\t"                                                                                    \
    "adds %[index], #2\n\t"

int32_t sl_row_dot(const int16_t *theta, const int16_t *x, uint32_t count)
{
    int32_t sum = dot_one_by_one(theta, x, count & 3), index = -2 * (int32_t)(count & ~3u), a, b;
    if (index != 0) {
        __asm__ __volatile__(".syntax unified\n\t"
                "1:\n\t" TERM TERM TERM TERM
                "bne 1b"
                : [sum] "+l"(sum), [index] "+l"(index), [a] "=&l"(a), [b] "=&l"(b)
                : [theta] "l"(theta + count), [x] "l"(x + count)
                : "cc", "memory");
    }
    return sum;
}

void sl_row_move(int16_t *theta, const int16_t *x, int32_t error, uint32_t count)
{
    /* Named registers: at -Os gcc finds none by itself. */
    register int32_t half __asm__("r8") = 2048;
    register int32_t twice __asm__("r9") = 2 * SL_THETA_LIMIT;
    const int32_t limit = SL_THETA_LIMIT;
    int32_t index = -2 * (int32_t)count, moved, change;
    if (count == 0) {
        return;
    }
    __asm__ __volatile__(".syntax unified\n\t"
                         "1: ldrsh %[change], [%[x], %[index]]\n\t"
                         "muls %[change], %[error]\n\t"
                         "add %[change], %[half]\n\t"
                         "asrs %[change], %[change], #12\n\t"
                         "ldrsh %[moved], [%[theta], %[index]]\n\t"
                         "subs %[moved], %[moved], %[change]\n\t"
                         "adds %[change], %[moved], %[limit]\n\t"
                         "cmp %[change], %[twice]\n\t"
                         "bhi 3f\n\t"
                         "2: strh %[moved], [%[theta], %[index]]\n\t"
                         "adds %[index], #2\n\t"
                         "bne 1b\n\t"
                         "b 4f\n\t"
                         "3: asrs %[change], %[moved], #31\n\t" /* to the limit of its sign */
                         "mov %[moved], %[limit]\n\t"
                         "eors %[moved], %[change]\n\t"
                         "subs %[moved], %[moved], %[change]\n\t"
                         "b 2b\n\t"
                         "4:"
                         : [index] "+l"(index), [moved] "=&l"(moved), [change] "=&l"(change)
                         : [theta] "l"(theta + count), [x] "l"(x + count), [error] "l"(error), [limit] "l"(limit),
                           [half] "r"(half), [twice] "r"(twice)
                         : "cc", "memory");
}

#else

int32_t sl_row_dot(const int16_t *theta, const int16_t *x, uint32_t count)
{
    return dot_one_by_one(theta, x, count);
}

void sl_row_move(int16_t *theta, const int16_t *x, int32_t error, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        theta[i] = sl_theta_clamped(theta[i] - ((error * x[i] + 2048) >> 12));
    }
}

#endif
