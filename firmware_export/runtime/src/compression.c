#include "sanderling/compression.h"

#include "fixed_point.h"

enum { VALUE_LIMIT = 127, FACTOR_BITS = 16 };

static uint32_t magnitude(int32_t value)
{
    return value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
}

void sl_choose_mask(sl_choice *choice, const char *federation, uint32_t mask_epoch, uint32_t dimension, uint32_t count)
{
    sl_key_builder builder;
    sl_key_begin(&builder, "mask");
    sl_key_text(&builder, federation);
    sl_key_integer(&builder, mask_epoch);
    *choice = (sl_choice){.left = count, .positions = dimension, .key = sl_key_end(&builder)};
}

static uint32_t count_from(const int32_t *vector, uint32_t dimension, uint32_t threshold)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < dimension; i++) {
        count += magnitude(vector[i]) >= threshold ? 1 : 0;
    }
    return count;
}

void sl_choose_top_k(sl_choice *choice, const int32_t *vector, uint32_t dimension, uint32_t count)
{
    uint32_t threshold = 0; /* the largest that `count` magnitudes reach, bit by bit */
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        if (count_from(vector, dimension, threshold | bit) >= count) {
            threshold |= bit;
        }
    }
    const uint32_t above = threshold == UINT32_MAX ? 0 : count_from(vector, dimension, threshold + 1);
    *choice = (sl_choice){
        .left = count, .positions = dimension, .vector = vector, .threshold = threshold, .ties = count - above};
}

/* Whether the next position is one of those chosen. */
static bool is_chosen(sl_choice *choice)
{
    if (choice->left == choice->positions) {
        return true;
    }
    if (choice->vector == NULL) { /* selection sampling */
        return sl_below(sl_random_word(choice->key, 0, choice->next), choice->positions) < choice->left;
    }
    const uint32_t size = magnitude(choice->vector[choice->next]);
    if (size == choice->threshold && choice->ties > 0) {
        choice->ties--;
        return true;
    }
    return size > choice->threshold;
}

uint32_t sl_next_coordinate(sl_choice *choice)
{
    while (!is_chosen(choice)) {
        choice->next++;
        choice->positions--;
    }
    choice->positions--;
    choice->left--;
    return choice->next++;
}

uint32_t sl_square_root(uint64_t x)
{
    uint32_t root = 0;
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        const uint64_t trial = root | bit;
        if (trial * trial <= x) {
            root |= bit;
        }
    }
    return root;
}

uint64_t sl_squared_norm(const int32_t *values, uint32_t count)
{
    uint64_t squared = 0;
    for (uint32_t i = 0; i < count; i++) {
        squared += (uint64_t)magnitude(values[i]) * magnitude(values[i]);
    }
    return squared;
}

void sl_clip(int32_t *values, uint32_t count, uint32_t norm)
{
    const uint64_t squared = sl_squared_norm(values, count);
    if (norm == 0 || squared <= (uint64_t)norm * norm) {
        return;
    }
    const uint64_t factor = ((uint64_t)norm << FACTOR_BITS) / ((uint64_t)sl_square_root(squared) + 1);
    for (uint32_t i = 0; i < count; i++) {
        const int32_t smaller = (int32_t)((magnitude(values[i]) * factor) >> FACTOR_BITS);
        values[i] = values[i] < 0 ? -smaller : smaller;
    }
}

void sl_quantize(int32_t *values, uint32_t count, const sl_update_rule *rule, sl_key key)
{
    const uint32_t shift = rule->scale_shift, steps = rule->clipping_norm >> shift;
    for (uint32_t i = 0; i < count; i++) {
        const int32_t offset = (int32_t)sl_below(sl_random_word(key, 0, i), 1u << shift);
        values[i] = sl_clamp((values[i] + offset) >> shift, -VALUE_LIMIT, VALUE_LIMIT);
        if (rule->clipping_norm != 0 && steps == 0) {
            values[i] = 0;
        }
    }
    sl_clip(values, count, steps); /* rounding up may have lifted the norm over its bound */
}
