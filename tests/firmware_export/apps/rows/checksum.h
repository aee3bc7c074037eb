/* A checksum over what the loops of rows.c and rescaling give, for inputs that reach every path and every limit. */
#include <stddef.h>

#include "../../../../firmware_export/runtime/src/fixed_point.h"
#include "../../../../firmware_export/runtime/src/rows.h"

enum { MOST = 37, ROUNDS = 400 };

static uint32_t state;

static uint32_t draw(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static uint32_t mixed(uint32_t sum, uint32_t value)
{
    return (sum ^ value) * 16777619u;
}

static uint32_t checksum(void)
{
    int16_t theta[MOST], x[MOST];
    uint32_t sum = 2166136261u;
    state = 1;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t count = draw() % (MOST + 1), limit = round % 3 == 0 ? SL_THETA_LIMIT : 700;
        for (uint32_t i = 0; i < count; i++) {
            theta[i] = (int16_t)((int32_t)(draw() % (2 * limit + 1)) - (int32_t)limit);
            x[i] = (int16_t)((int32_t)(draw() % 511) - 255);
        }
        /* From small errors past 2^18, where changes outgrow 16 bits, to the largest, (2^31 - 1 - 4096) / 255. */
        const uint32_t most = round % 5 == 0 ? 8421488 : round % 5 == 1 ? 262146 : 4000;
        int32_t error = (int32_t)(draw() % (2 * most + 1)) - (int32_t)most;
        error = round % 7 == 0 ? (int32_t)most : round % 7 == 1 ? -(int32_t)most : error;
        sum = mixed(sum, (uint32_t)sl_row_dot(theta, x, count));
        sl_row_move(theta, x, error, count);
        for (uint32_t i = 0; i < count; i++) {
            sum = mixed(sum, (uint32_t)(int32_t)theta[i]);
        }
        const int32_t a = (int32_t)(draw() << 16 ^ draw()), b = (int32_t)((draw() << 16 ^ draw()) & 0x7FFFFFFF);
        sum = mixed(sum, (uint32_t)sl_high_product(a, b));
        sum = mixed(sum, (uint32_t)sl_high_product(round % 2 == 0 ? INT32_MIN : INT32_MAX, INT32_MAX));
        sum = mixed(sum, (uint32_t)sl_scaled(a >> 14, (sl_scale){b | 1 << 30, (int32_t)(draw() % 47) - 31}));
    }
    return sum;
}
