#include "softmax.h"

#include "fixed_point.h"

enum { ONE = 1 << 15, NAT = 1 << 8, LAST_STEP = 16 * NAT - 1 };

/* 65535 * e^-i, and 65535 * e^(-i/256). */
static const uint16_t coarse[16] = {
    65535, 24109, 8869, 3263, 1200, 442, 162, 60, 22, 8, 3, 1, 0, 0, 0, 0,
};
static const uint16_t fine[NAT] = {
    65535, 65280, 65025, 64771, 64519, 64267, 64017, 63767, 63519, 63271, 63024, 62779, 62534, 62290, 62047, 61805,
    61564, 61324, 61085, 60847, 60610, 60374, 60138, 59904, 59670, 59438, 59206, 58975, 58745, 58516, 58288, 58061,
    57834, 57609, 57384, 57161, 56938, 56716, 56495, 56274, 56055, 55837, 55619, 55402, 55186, 54971, 54757, 54543,
    54330, 54119, 53908, 53697, 53488, 53280, 53072, 52865, 52659, 52454, 52249, 52045, 51842, 51640, 51439, 51238,
    51039, 50840, 50642, 50444, 50247, 50052, 49856, 49662, 49468, 49276, 49083, 48892, 48701, 48512, 48322, 48134,
    47946, 47760, 47573, 47388, 47203, 47019, 46836, 46653, 46471, 46290, 46110, 45930, 45751, 45572, 45395, 45218,
    45042, 44866, 44691, 44517, 44343, 44170, 43998, 43827, 43656, 43486, 43316, 43147, 42979, 42811, 42644, 42478,
    42313, 42148, 41983, 41820, 41657, 41494, 41332, 41171, 41011, 40851, 40692, 40533, 40375, 40218, 40061, 39905,
    39749, 39594, 39440, 39286, 39133, 38980, 38828, 38677, 38526, 38376, 38226, 38077, 37929, 37781, 37634, 37487,
    37341, 37195, 37050, 36906, 36762, 36618, 36476, 36334, 36192, 36051, 35910, 35770, 35631, 35492, 35353, 35216,
    35078, 34942, 34805, 34670, 34535, 34400, 34266, 34132, 33999, 33867, 33735, 33603, 33472, 33342, 33212, 33082,
    32953, 32825, 32697, 32569, 32442, 32316, 32190, 32064, 31939, 31815, 31691, 31567, 31444, 31321, 31199, 31078,
    30957, 30836, 30716, 30596, 30477, 30358, 30239, 30122, 30004, 29887, 29771, 29655, 29539, 29424, 29309, 29195,
    29081, 28968, 28855, 28742, 28630, 28519, 28407, 28297, 28186, 28076, 27967, 27858, 27749, 27641, 27533, 27426,
    27319, 27213, 27106, 27001, 26896, 26791, 26686, 26582, 26479, 26375, 26272, 26170, 26068, 25966, 25865, 25764,
    25664, 25564, 25464, 25365, 25266, 25167, 25069, 24972, 24874, 24777, 24681, 24584, 24489, 24393, 24298, 24203,
};

/* e^(-steps / 256) in 2^-16 */
static uint32_t exponential(uint32_t steps)
{
    return ((uint32_t)coarse[steps >> 8] * fine[steps & (NAT - 1)] + 32768) >> 16;
}

uint32_t sl_largest(const int32_t *values, uint32_t count)
{
    uint32_t largest = 0;
    for (uint32_t i = 1; i < count; i++) {
        if (values[i] > values[largest]) {
            largest = i;
        }
    }
    return largest;
}

void sl_cross_entropy_error(const sl_head *head, int32_t *sums, uint32_t label)
{
    const uint32_t classes = head->classes, reach = (uint32_t)head->reach;
    const uint32_t top = (uint32_t)sums[sl_largest(sums, classes)];
    uint32_t total = 0;
    for (uint32_t k = 0; k < classes; k++) {
        uint32_t below = top - (uint32_t)sums[k];
        int32_t steps = sl_scaled((int32_t)(below < reach ? below : reach), head->exp_scale);
        uint32_t value = exponential((uint32_t)(steps < LAST_STEP ? steps : LAST_STEP));
        sums[k] = (int32_t)value;
        total += value;
    }
    for (uint32_t k = 0; k < classes; k++) {
        if (sums[k] != 0) { /* a division that some cores lack */
            sums[k] = (int32_t)((((uint32_t)sums[k] << 15) + (total >> 1)) / total);
        }
    }
    sums[label] -= ONE;
}

/* Logarithm to the base 2 of x > 0, in 2^-16: the fraction bit by bit, by squaring. */
static uint32_t log2_q16(uint32_t x)
{
    uint32_t whole = 31, log = 0;
    while ((x & 0x80000000u) == 0) {
        x <<= 1;
        whole--;
    }
    for (uint32_t i = 0; i < 16; i++) {
        uint64_t square = (uint64_t)x * x; /* x is in 1..2, in 2^-31 */
        log = log << 1 | (uint32_t)(square >> 63);
        x = (uint32_t)(square >> ((square >> 63) != 0 ? 32 : 31));
    }
    return whole << 16 | log;
}

/* What lies `below` the largest accumulator, in 2^-16 nat. */
static uint32_t nats_q16(const sl_head *head, uint32_t below)
{
    const uint64_t most = 1u << 30;
    int32_t right = 31 - 8 - head->exp_scale.shift;
    uint64_t product = (uint64_t)below * (uint32_t)head->exp_scale.multiplier;
    uint64_t nats = right > 63 ? 0 : right >= 0 ? product >> right : product == 0 ? 0 : most;
    return (uint32_t)(nats < most ? nats : most);
}

uint32_t sl_cross_entropy_q16(const sl_head *head, const int32_t *sums, uint32_t label)
{
    enum { LN_2_Q16 = 45426, LN_65535_Q16 = 726816 };
    const uint32_t top = (uint32_t)sums[sl_largest(sums, head->classes)];
    uint32_t total = 0;
    for (uint32_t k = 0; k < head->classes; k++) {
        uint32_t nats = nats_q16(head, top - (uint32_t)sums[k]), rest = nats & 255;
        uint32_t value = nats >> 8 > LAST_STEP ? 0 : exponential(nats >> 8);
        total += value - ((value * rest) >> 16); /* e^-rest is nearly 1 - rest */
    }
    uint32_t log = (uint32_t)(((uint64_t)log2_q16(total) * LN_2_Q16) >> 16);
    return nats_q16(head, top - (uint32_t)sums[label]) + (log > LN_65535_Q16 ? log - LN_65535_Q16 : 0);
}
