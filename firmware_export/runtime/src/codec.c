#include "sanderling/codec.h"

enum {
    VERSION = 1,
    MAX_DIMENSION = 1 << 20,
    MAX_SCALE_SHIFT = 16,
    TRAVELS = 0x08,
    RAW = 7,           /* the value coding that is none; 0..6 are Rice parameters */
    QUOTIENT_CAP = 15, /* a run of this many ones is an escape */
    RAW_BITS = 8,
    CODE_BYTES = 4,    /* of the range coder's numbers */
    LARGEST_ZIGZAG = 254
};

static const uint32_t WHOLE = UINT32_MAX, FLOOR = 1u << 24; /* widths of the range coder */

/* --- bits, the most significant first --- */

/* Past `capacity` nothing is written, only counted. */
typedef struct {
    uint8_t *bytes;
    uint32_t capacity;
    uint32_t bit;
} writer;

static void put(writer *out, uint32_t value, uint32_t width)
{
    for (uint32_t i = width; i-- > 0; out->bit++) {
        const uint32_t at = out->bit / 8, inside = out->bit % 8;
        if (at < out->capacity) {
            const uint32_t kept = inside == 0 ? 0 : out->bytes[at];
            out->bytes[at] = (uint8_t)(kept | ((value >> i) & 1) << (7 - inside));
        }
    }
}

static void put_varint(writer *out, uint32_t value)
{
    for (; value >= 0x80; value >>= 7) {
        put(out, (value & 0x7F) | 0x80, 8);
    }
    put(out, value, 8);
}

typedef struct {
    const uint8_t *bytes;
    uint32_t size; /* in bytes */
    uint32_t bit;
    bool failed;
} reader;

static uint32_t get(reader *in, uint32_t width)
{
    uint32_t value = 0;
    if (width > 8 * in->size - in->bit) {
        in->failed = true;
        return 0;
    }
    for (; width > 0; width--, in->bit++) {
        value = value << 1 | (((uint32_t)in->bytes[in->bit / 8] >> (7 - in->bit % 8)) & 1);
    }
    return value;
}

/* Of 1 to 3 bytes, the shortest. */
static uint32_t get_varint(reader *in)
{
    uint32_t value = 0;
    for (uint32_t shift = 0; shift < 21; shift += 7) {
        const uint32_t byte = get(in, 8);
        value |= (byte & 0x7F) << shift;
        if (byte < 0x80) {
            in->failed = in->failed || (shift > 0 && byte == 0);
            return value;
        }
    }
    in->failed = true;
    return 0;
}

/* --- coordinates: a range coder over membership --- */

typedef struct {
    uint32_t low, width;
    uint32_t positions, left; /* and how many of them are members */
} coder;

static uint32_t member_width(const coder *code)
{
    return code->width / code->positions * code->left;
}

/* Adds to the code, with the carry into the bytes that are out. */
static void raise(coder *code, writer *out, uint32_t by)
{
    code->low += by;
    if (code->low < by) {
        for (uint32_t at = out->bit / 8; at-- > 0;) {
            if (at < out->capacity && ++out->bytes[at] != 0) {
                return;
            }
        }
    }
}

static void encode_position(coder *code, writer *out, bool is_member)
{
    const uint32_t member = member_width(code);
    if (is_member) {
        code->width = member;
        code->left--;
    } else {
        raise(code, out, member);
        code->width -= member;
    }
    code->positions--;
    for (; code->width < FLOOR; code->width <<= 8) {
        put(out, code->low >> 24, 8);
        code->low <<= 8;
    }
}

/* Any bits may follow a code whose last `free` bits are 0: as many as the width leaves open. */
static uint32_t free_bits(uint32_t width)
{
    uint32_t bits = 0;
    while (width >> bits > 1) {
        bits++;
    }
    return bits - 1;
}

static void encode_coordinates(writer *out, const sl_quantized_update *update)
{
    coder code = {.width = WHOLE, .positions = update->dimension, .left = update->count};
    uint32_t member = 0;
    if (code.left == 0 || code.left == code.positions) {
        return;
    }
    for (uint32_t i = 0; 0 < code.left && code.left < code.positions; i++) {
        const bool is_member = update->coordinates[member] == i;
        member += is_member ? 1 : 0;
        encode_position(&code, out, is_member);
    }
    const uint32_t open = free_bits(code.width), below = (1u << open) - 1;
    raise(&code, out, below);
    put(out, code.low >> open, 8 * CODE_BYTES - open);
}

/* The byte, or 0 beyond the end. */
static uint32_t byte_at(const reader *in, uint32_t at)
{
    return at < in->size ? in->bytes[at] : 0;
}

static uint32_t window_at(const reader *in, uint32_t at)
{
    uint32_t window = 0;
    for (uint32_t i = 0; i < CODE_BYTES; i++) {
        window = window << 8 | byte_at(in, at + i);
    }
    return window;
}

/* `low` of the coder is here the code less the encoder's. */
static bool decode_coordinates(reader *in, sl_quantized_update *update)
{
    const uint32_t dimension = update->dimension, count = update->count;
    uint32_t at = in->bit / 8, found = 0;
    coder code = {.low = window_at(in, at), .width = WHOLE, .positions = dimension, .left = count};
    if (count == 0 || count == dimension) {
        for (; found < count; found++) {
            update->coordinates[found] = found;
        }
        return true;
    }
    if (code.low == WHOLE) {
        return false;
    }
    while (0 < code.left && code.left < code.positions) {
        const uint32_t member = member_width(&code);
        if (code.low < member) {
            update->coordinates[found++] = dimension - code.positions;
            code.width = member;
            code.left--;
        } else {
            code.low -= member;
            code.width -= member;
        }
        code.positions--;
        for (; code.width < FLOOR; code.width <<= 8, at++) {
            if (at == in->size) {
                return false;
            }
            code.low = code.low << 8 | byte_at(in, at + CODE_BYTES);
        }
    }
    for (uint32_t i = 0; i < code.left; i++) {
        update->coordinates[found++] = dimension - code.positions + i;
    }
    const uint32_t open = free_bits(code.width), tail = window_at(in, at) & ((1u << open) - 1);
    in->bit = 8 * at + 8 * CODE_BYTES - open;
    return code.low >= tail && code.low - tail < 1u << open && in->bit <= 8 * in->size;
}

/* --- values: zig-zag, then Rice codes in three planes --- */

static uint32_t zigzag(int8_t value)
{
    return value < 0 ? (uint32_t)(-2 * value - 1) : (uint32_t)(2 * value);
}

/* The coding of fewest bits; of equals the smallest parameter, and raw last. */
static uint32_t best_coding(const sl_quantized_update *update)
{
    uint32_t best = RAW, fewest = RAW_BITS * update->count;
    for (uint32_t coding = RAW; coding-- > 0;) {
        uint32_t bits = 0;
        for (uint32_t i = 0; i < update->count; i++) {
            const uint32_t quotient = zigzag(update->values[i]) >> coding;
            bits += quotient < QUOTIENT_CAP ? quotient + 1 + coding : QUOTIENT_CAP + 1 + RAW_BITS;
        }
        if (bits <= fewest) {
            best = coding;
            fewest = bits;
        }
    }
    return best;
}

static void encode_values(writer *out, const sl_quantized_update *update, uint32_t coding)
{
    for (uint32_t i = 0; i < update->count && coding != RAW; i++) {
        const uint32_t quotient = zigzag(update->values[i]) >> coding;
        const uint32_t run = quotient < QUOTIENT_CAP ? quotient : QUOTIENT_CAP;
        put(out, (1u << (run + 1)) - 2, run + 1);
    }
    for (uint32_t i = 0; i < update->count; i++) {
        put(out, zigzag(update->values[i]), coding == RAW ? RAW_BITS : coding);
    }
    for (uint32_t i = 0; i < update->count && coding != RAW; i++) {
        const uint32_t quotient = zigzag(update->values[i]) >> coding;
        if (quotient >= QUOTIENT_CAP) {
            put(out, quotient, RAW_BITS - coding);
        }
    }
}

static uint32_t get_run(reader *in)
{
    uint32_t run = 0;
    while (get(in, 1) == 1) {
        run++;
    }
    return run;
}

/* Values hold quotients, then zig-zag numbers, until the last pass. */
static bool decode_values(reader *in, sl_quantized_update *update, uint32_t coding)
{
    uint8_t *numbers = (uint8_t *)update->values;
    for (uint32_t i = 0; i < update->count && coding != RAW; i++) {
        const uint32_t run = get_run(in);
        if (run > QUOTIENT_CAP || in->failed) {
            return false;
        }
        numbers[i] = (uint8_t)run;
    }
    /* The escapes lie behind all low bits. */
    const uint32_t width = coding == RAW ? RAW_BITS : coding;
    reader escapes = *in;
    escapes.bit += update->count * width;
    escapes.failed = escapes.bit > 8 * in->size;
    for (uint32_t i = 0; i < update->count; i++) {
        uint32_t number = coding == RAW ? 0 : numbers[i];
        if (coding != RAW && number == QUOTIENT_CAP) {
            number = escapes.failed ? 0 : get(&escapes, RAW_BITS - coding);
            if (number < QUOTIENT_CAP) {
                return false;
            }
        }
        number = number << width | get(in, width);
        if (number > LARGEST_ZIGZAG || in->failed) {
            return false;
        }
        update->values[i] = (int8_t)((number & 1) != 0 ? -(int32_t)(number / 2) - 1 : (int32_t)(number / 2));
    }
    *in = escapes;
    return !in->failed;
}

static bool only_padding_follows(reader *in)
{
    const uint32_t left = 8 * in->size - in->bit;
    return left < 8 && get(in, left) == 0;
}

/* --- updates --- */

static bool is_valid(const sl_quantized_update *update)
{
    if (update->dimension < 1 || update->dimension > MAX_DIMENSION || update->count > update->dimension ||
        update->scale_shift > MAX_SCALE_SHIFT) {
        return false;
    }
    for (uint32_t i = 0; i < update->count; i++) {
        if (update->values[i] == INT8_MIN) {
            return false;
        }
        if (update->coordinates != NULL && (update->coordinates[i] >= update->dimension ||
                                            (i > 0 && update->coordinates[i] <= update->coordinates[i - 1]))) {
            return false;
        }
    }
    return true;
}

sl_status sl_codec_encode(const sl_quantized_update *update, uint8_t *bytes, uint32_t capacity, uint32_t *size)
{
    writer out = {.bytes = bytes, .capacity = capacity};
    if (!is_valid(update)) {
        return SL_MALFORMED;
    }
    const uint32_t coding = best_coding(update);
    put(&out, VERSION << 4 | (update->coordinates == NULL ? 0 : TRAVELS) | coding, 8);
    put(&out, update->scale_shift, 8);
    put_varint(&out, update->count);
    if (update->coordinates != NULL) {
        put_varint(&out, update->dimension);
        encode_coordinates(&out, update);
    }
    encode_values(&out, update, coding);
    *size = (out.bit + 7) / 8;
    return *size <= capacity ? SL_OK : SL_NO_SPACE;
}

sl_status sl_codec_decode(const uint8_t *bytes, uint32_t size, sl_quantized_update *update)
{
    reader in = {.bytes = bytes, .size = size};
    const bool travels = update->coordinates != NULL;
    const uint32_t most = update->count;
    if (size < 3 || size > MAX_DIMENSION + 64) {
        return SL_MALFORMED;
    }
    const uint32_t first = get(&in, 8);
    if (first >> 4 != VERSION) {
        return SL_UNKNOWN_VERSION;
    }
    update->scale_shift = (uint8_t)get(&in, 8);
    update->count = get_varint(&in);
    const uint32_t dimension = (first & TRAVELS) != 0 ? get_varint(&in) : update->dimension;
    if (in.failed || update->scale_shift > MAX_SCALE_SHIFT || ((first & TRAVELS) != 0) != travels ||
        dimension != update->dimension || update->count > most || (!travels && update->count != most) ||
        update->count > dimension) {
        return SL_MALFORMED;
    }
    const uint32_t coding = first & RAW;
    if ((travels && !decode_coordinates(&in, update)) || 8 * size - in.bit > RAW_BITS * update->count + 7 ||
        !decode_values(&in, update, coding) || !only_padding_follows(&in) || coding != best_coding(update)) {
        return SL_MALFORMED;
    }
    return SL_OK;
}
