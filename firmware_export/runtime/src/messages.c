#include "sanderling/messages.h"

#include <string.h>

enum { VERSION = 1, STATUS_VERSION = 2, PLAN_FIELDS = 12, MAX_SCALE_SHIFT = 16 };

static bool is_name_character(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

bool sl_is_name(const char *text)
{
    uint32_t size = 0;
    while (size <= SL_NAME_BYTES && is_name_character((uint8_t)text[size])) {
        size++;
    }
    return size >= 1 && size <= SL_NAME_BYTES && text[size] == '\0';
}

/* ------------------------------------------------------------------------------------------------ round plan

   The grammar of broker/messages.cddl as a list of rules, one a CBOR item, in the order in which items come. */

enum kind {
    MAP,        /* any count: that is checked once the version is known */
    KEY,        /* the number `bound` */
    IS_VERSION,
    UINT,       /* 0 to `bound` */
    POSITIVE,   /* 1 to `bound` */
    SEED,       /* up to 64 bits */
    DEADLINE,   /* up to 2^48, or null */
    FEDERATION, /* names */
    RUN,
    MEMBER,
    HASH,
    ARRAY,      /* of `bound` items */
    LIST        /* of up to `bound` items, each the `size` rules that follow */
};

typedef struct {
    uint8_t kind;
    uint8_t size;    /* bytes of the field */
    uint16_t offset; /* of the field in sl_plan */
    uint32_t bound;
} rule;

#define AT(field) (uint8_t) sizeof(((sl_plan *)0)->field), (uint16_t)offsetof(sl_plan, field)
#define NOWHERE 0, 0

#define REFERENCE(field)                                                                                               \
    {ARRAY, NOWHERE, 5}, {UINT, AT(field.version), UINT32_MAX}, {HASH, AT(field.model_hash), 0},                       \
        {UINT, AT(field.body_bytes), 2 * SL_MAX_DIMENSION + 64}, {HASH, AT(field.network_hash), 0},                    \
    {                                                                                                                  \
        UINT, AT(field.network_bytes), 16 << 20                                                                        \
    }
enum { REFERENCE_RULES = 6 };

static const rule RULES[] = {
    {MAP, NOWHERE, 0},
    {KEY, NOWHERE, 0}, {IS_VERSION, NOWHERE, 0},
    {KEY, NOWHERE, 1}, {FEDERATION, NOWHERE, 0},
    {KEY, NOWHERE, 2}, {RUN, NOWHERE, 0},
    {KEY, NOWHERE, 3}, {UINT, AT(round), UINT32_MAX},
    {KEY, NOWHERE, 4}, {UINT, AT(phase), SL_PHASE_FINISHED},
    {KEY, NOWHERE, 5}, {LIST, 1, 0, SL_MAX_COHORT}, {MEMBER, NOWHERE, 0},
    {KEY, NOWHERE, 6}, {DEADLINE, AT(deadline_ms), 0},
    {KEY, NOWHERE, 7}, {UINT, AT(arithmetic), SL_ARITHMETIC_FAST},
    {KEY, NOWHERE, 8}, REFERENCE(model),
    {KEY, NOWHERE, 9}, {ARRAY, NOWHERE, 5},
    {POSITIVE, AT(training.epochs), UINT16_MAX},
    {POSITIVE, AT(training.batch_size), UINT16_MAX},
    {UINT, AT(training.learning_rate_q16), UINT32_MAX},
    {UINT, AT(training.proximal_mu_q16), UINT32_MAX},
    {SEED, AT(seed), 0},
    {KEY, NOWHERE, 10}, {ARRAY, NOWHERE, 5},
    {UINT, AT(update.mode), SL_MODE_TOPK},
    {UINT, AT(update.coordinates), SL_MAX_DIMENSION},
    {UINT, AT(update.mask_epoch), UINT32_MAX},
    {UINT, AT(update.clipping_norm), UINT32_MAX},
    {UINT, AT(update.scale_shift), MAX_SCALE_SHIFT},
    {KEY, NOWHERE, 11}, {LIST, REFERENCE_RULES, 0, SL_MAX_EVALUATED}, REFERENCE(evaluate[0]),
};
enum { RULE_COUNT = sizeof RULES / sizeof RULES[0] };

sl_status sl_plan_begin(sl_plan_reader *reader, const char *federation, const char *device, uint32_t total)
{
    memset(reader, 0, sizeof *reader);
    reader->federation = federation;
    reader->device = device;
    reader->left = total;
    reader->plan.deadline_ms = UINT64_MAX;
    reader->status = total > SL_MAX_PLAN_BYTES ? SL_TOO_LARGE : SL_OK;
    return reader->status;
}

/* Where the rule's field lies: within the list's item that is being read, for a reference to evaluate. */
static uint8_t *field_of(sl_plan_reader *reader, const rule *expected)
{
    uint8_t *field = (uint8_t *)&reader->plan + expected->offset;
    if (expected->offset >= offsetof(sl_plan, evaluate) && expected->offset < offsetof(sl_plan, run)) {
        field += (reader->plan.evaluate_count - reader->repeats) * sizeof(sl_model_reference);
    }
    return field;
}

static void store(uint8_t *field, uint32_t size, uint64_t value)
{
    uint8_t value8 = (uint8_t)value;
    uint16_t value16 = (uint16_t)value;
    uint32_t value32 = (uint32_t)value;
    const void *from = size == 1 ? (void *)&value8 : size == 2 ? (void *)&value16 : size == 4 ? (void *)&value32 : &value;
    memcpy(field, from, size);
}

static void advance(sl_plan_reader *reader)
{
    reader->rule++;
    if (reader->repeats > 0 && reader->rule == reader->list_end) {
        reader->repeats--;
        if (reader->repeats > 0) {
            reader->rule = reader->list_begin;
        }
    }
}

static void begin_list(sl_plan_reader *reader, const rule *expected, uint32_t count)
{
    if (expected->size == REFERENCE_RULES) {
        reader->plan.evaluate_count = (uint8_t)count;
    }
    reader->repeats = count;
    reader->list_begin = (uint8_t)(reader->rule + 1);
    reader->list_end = (uint8_t)(reader->list_begin + expected->size);
    reader->rule = count > 0 ? reader->list_begin : reader->list_end;
}

static void begin_text(sl_plan_reader *reader, uint32_t size)
{
    reader->in_text = true;
    reader->same = true;
    reader->text_size = size;
    reader->text_place = 0;
}

static sl_status take_version(sl_plan_reader *reader, sl_status head_status)
{
    const sl_cbor_head *head = &reader->head;
    if (head->type != SL_CBOR_UINT || head->value != VERSION) {
        return SL_UNKNOWN_VERSION;
    }
    if (head_status != SL_OK || reader->fields != PLAN_FIELDS) {
        return SL_MALFORMED;
    }
    advance(reader);
    return SL_OK;
}

/* An item's head has come: whether it is what the rule expects. */
static sl_status take_head(sl_plan_reader *reader, const rule *expected)
{
    static const uint8_t types[] = {
        [MAP] = SL_CBOR_MAP, [KEY] = SL_CBOR_UINT, [UINT] = SL_CBOR_UINT, [POSITIVE] = SL_CBOR_UINT,
        [SEED] = SL_CBOR_UINT, [DEADLINE] = SL_CBOR_UINT, [FEDERATION] = SL_CBOR_TEXT, [RUN] = SL_CBOR_TEXT,
        [MEMBER] = SL_CBOR_TEXT, [HASH] = SL_CBOR_BYTES, [ARRAY] = SL_CBOR_ARRAY, [LIST] = SL_CBOR_ARRAY,
    };
    uint64_t value = reader->head.value;
    if (expected->kind == DEADLINE && reader->head.type == SL_CBOR_NULL) {
        advance(reader);
        return SL_OK;
    }
    if (reader->head.type != types[expected->kind]) {
        return SL_MALFORMED;
    }
    bool good = true;
    switch (expected->kind) {
    case MAP:
        reader->fields = value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
        if (value == 0) {
            return SL_UNKNOWN_VERSION;
        }
        break;
    case KEY:
    case ARRAY:
        good = value == expected->bound;
        break;
    case UINT:
        good = value <= expected->bound;
        break;
    case POSITIVE:
        good = value >= 1 && value <= expected->bound;
        break;
    case DEADLINE:
        good = value <= (uint64_t)1 << 48;
        break;
    case HASH:
        good = value == SL_HASH_BYTES;
        break;
    case FEDERATION:
    case RUN:
    case MEMBER:
        good = value >= 1 && value <= SL_NAME_BYTES;
        break;
    case LIST:
        good = value <= expected->bound;
        break;
    default: /* SEED */
        break;
    }
    if (!good) {
        return SL_MALFORMED;
    }
    if (expected->kind == LIST) {
        begin_list(reader, expected, (uint32_t)value);
    } else if (types[expected->kind] == SL_CBOR_TEXT || expected->kind == HASH) {
        begin_text(reader, (uint32_t)value);
    } else {
        if (expected->size > 0) {
            store(field_of(reader, expected), expected->size, value);
        }
        advance(reader);
    }
    return SL_OK;
}

/* The name that this one is compared with; NULL for a string that is no name of that kind. */
static const char *other_name(const sl_plan_reader *reader, const rule *expected)
{
    return expected->kind == FEDERATION ? reader->federation : expected->kind == MEMBER ? reader->device : NULL;
}

static void end_text(sl_plan_reader *reader, const rule *expected)
{
    const char *other = other_name(reader, expected);
    bool same = other != NULL && reader->same && other[reader->text_size] == '\0';
    if (expected->kind == FEDERATION) {
        reader->ours = same;
    } else if (expected->kind == MEMBER) {
        reader->plan.in_cohort = reader->plan.in_cohort || same;
    }
    reader->in_text = false;
    advance(reader);
}

static sl_status take_text_byte(sl_plan_reader *reader, const rule *expected, uint8_t byte)
{
    uint32_t place = reader->text_place++;
    if (expected->kind == HASH) {
        field_of(reader, expected)[place] = byte;
    } else if (!is_name_character(byte)) {
        return SL_MALFORMED;
    } else if (expected->kind == RUN) {
        reader->plan.run[place] = (char)byte;
    } else {
        reader->same = reader->same && (uint8_t)other_name(reader, expected)[place] == byte;
    }
    if (reader->text_place == reader->text_size) {
        end_text(reader, expected);
    }
    return SL_OK;
}

static sl_status take_byte(sl_plan_reader *reader, uint8_t byte)
{
    if (reader->rule == RULE_COUNT || reader->left == 0) {
        return SL_MALFORMED;
    }
    reader->left--;
    const rule *expected = &RULES[reader->rule];
    if (reader->in_text) {
        return take_text_byte(reader, expected, byte);
    }
    sl_status status = sl_cbor_feed_head(&reader->head, byte);
    if (status == SL_PENDING) {
        return SL_OK;
    }
    if (expected->kind == IS_VERSION) {
        return take_version(reader, status);
    }
    return status == SL_OK ? take_head(reader, expected) : status;
}

sl_status sl_plan_feed(sl_plan_reader *reader, const uint8_t *bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size && reader->status == SL_OK; i++) {
        reader->status = take_byte(reader, bytes[i]);
    }
    return reader->status;
}

sl_status sl_plan_end(const sl_plan_reader *reader, sl_plan *plan)
{
    if (reader->status != SL_OK) {
        return reader->status;
    }
    if (reader->rule != RULE_COUNT || reader->left != 0) {
        return SL_MALFORMED;
    }
    if (!reader->ours) {
        return SL_WRONG_FEDERATION;
    }
    *plan = reader->plan;
    return SL_OK;
}

/* ------------------------------------------------------------------------------------------------ encoders */

static sl_status finish(const sl_cbor_writer *writer, uint32_t *size)
{
    if (writer->size > writer->capacity) {
        return SL_NO_SPACE;
    }
    *size = writer->size;
    return SL_OK;
}

/* A text of characters that are one byte each, so that bytes and characters are the same count. */
static bool is_ascii(const char *text, uint32_t most)
{
    uint32_t size = 0;
    while (size <= most && text[size] != '\0' && (uint8_t)text[size] < 128) {
        size++;
    }
    return size <= most && text[size] == '\0';
}

sl_status sl_update_encode(const sl_update *update, const uint8_t *payload, uint32_t payload_size, uint8_t *message,
                           uint32_t capacity, uint32_t *size)
{
    if (!sl_is_name(update->run) || update->num_examples == 0 || update->validation_correct > update->validation_count) {
        return SL_MALFORMED;
    }
    if (payload_size > SL_MAX_PAYLOAD_BYTES) {
        return SL_TOO_LARGE;
    }
    uint8_t head[SL_UPDATE_HEAD_BYTES];
    sl_cbor_writer writer = {head, sizeof head, 0};
    sl_cbor_put(&writer, SL_CBOR_ARRAY, 11);
    sl_cbor_put(&writer, SL_CBOR_UINT, VERSION);
    sl_cbor_put_text(&writer, update->run);
    sl_cbor_put(&writer, SL_CBOR_UINT, update->round);
    sl_cbor_put_bytes(&writer, update->model_hash, SL_HASH_PREFIX_BYTES);
    sl_cbor_put(&writer, SL_CBOR_UINT, update->num_examples);
    sl_cbor_put(&writer, SL_CBOR_UINT, update->training_loss_milli);
    sl_cbor_put(&writer, SL_CBOR_UINT, update->validation_correct);
    sl_cbor_put(&writer, SL_CBOR_UINT, update->validation_count);
    sl_cbor_put(&writer, SL_CBOR_UINT, update->validation_loss_milli);
    sl_cbor_put(&writer, SL_CBOR_UINT, update->duration_ms);
    sl_cbor_put(&writer, SL_CBOR_BYTES, payload_size);
    if (capacity < writer.size || payload_size > capacity - writer.size) {
        return SL_NO_SPACE;
    }
    if (payload_size > 0) {
        memmove(message + writer.size, payload, payload_size);
    }
    memcpy(message, head, writer.size);
    *size = writer.size + payload_size;
    return SL_OK;
}

sl_status sl_device_status_encode(const sl_device_status *status, uint8_t *message, uint32_t capacity, uint32_t *size)
{
    if (!is_ascii(status->backend, 64) || !is_ascii(status->software, 64) || !is_ascii(status->detail, 200)
        || status->arithmetic_drift_lsb > UINT16_MAX) {
        return SL_MALFORMED;
    }
    bool measured = status->arithmetic_drift_lsb >= 0, chunks = status->receive_buffer_bytes > 0;
    sl_cbor_writer writer = {message, capacity, 0};
    sl_cbor_put(&writer, SL_CBOR_MAP, 9);
    sl_cbor_put(&writer, SL_CBOR_UINT, 0);
    sl_cbor_put(&writer, SL_CBOR_UINT, STATUS_VERSION);
    sl_cbor_put(&writer, SL_CBOR_UINT, 1);
    sl_cbor_put(&writer, SL_CBOR_UINT, status->offline ? 1 : 0);
    sl_cbor_put(&writer, SL_CBOR_UINT, 2);
    sl_cbor_put(&writer, SL_CBOR_UINT, status->num_examples);
    sl_cbor_put(&writer, SL_CBOR_UINT, 3);
    sl_cbor_put_bytes(&writer, status->boot, SL_BOOT_BYTES);
    sl_cbor_put(&writer, SL_CBOR_UINT, 4);
    sl_cbor_put_text(&writer, status->backend);
    sl_cbor_put(&writer, SL_CBOR_UINT, 5);
    sl_cbor_put_text(&writer, status->software);
    sl_cbor_put(&writer, SL_CBOR_UINT, 6);
    sl_cbor_put(&writer, measured ? SL_CBOR_UINT : SL_CBOR_NULL, measured ? (uint64_t)status->arithmetic_drift_lsb : 0);
    sl_cbor_put(&writer, SL_CBOR_UINT, 7);
    sl_cbor_put_text(&writer, status->detail);
    sl_cbor_put(&writer, SL_CBOR_UINT, 8);
    sl_cbor_put(&writer, chunks ? SL_CBOR_UINT : SL_CBOR_NULL, status->receive_buffer_bytes);
    return finish(&writer, size);
}

sl_status sl_evaluation_encode(const char *run, const sl_evaluation_result *results, uint32_t count, uint8_t *message,
                               uint32_t capacity, uint32_t *size)
{
    if (!sl_is_name(run) || count > SL_MAX_EVALUATED) {
        return SL_MALFORMED;
    }
    sl_cbor_writer writer = {message, capacity, 0};
    sl_cbor_put(&writer, SL_CBOR_ARRAY, 3);
    sl_cbor_put(&writer, SL_CBOR_UINT, VERSION);
    sl_cbor_put_text(&writer, run);
    sl_cbor_put(&writer, SL_CBOR_ARRAY, count);
    for (uint32_t i = 0; i < count; i++) {
        const sl_evaluation_result *result = &results[i];
        if (result->correct > result->examples) {
            return SL_MALFORMED;
        }
        sl_cbor_put(&writer, SL_CBOR_ARRAY, 4);
        sl_cbor_put_bytes(&writer, result->model_hash, SL_HASH_BYTES);
        sl_cbor_put(&writer, SL_CBOR_UINT, result->correct);
        sl_cbor_put(&writer, SL_CBOR_UINT, result->examples);
        sl_cbor_put(&writer, SL_CBOR_UINT, result->loss_milli);
    }
    return finish(&writer, size);
}

/* ------------------------------------------------------------------------------------------------ topics */

/* A text in the making; what does not fit is only counted. */
typedef struct {
    char *text;
    uint32_t capacity;
    uint32_t size;
} text_writer;

static void put_character(text_writer *writer, char character)
{
    if (writer->size < writer->capacity) {
        writer->text[writer->size] = character;
    }
    writer->size++;
}

static void put_text(text_writer *writer, const char *text)
{
    while (*text != '\0') {
        put_character(writer, *text++);
    }
}

static void put_hash(text_writer *writer, const uint8_t *hash)
{
    static const char digits[] = "0123456789abcdef";
    for (uint32_t i = 0; i < SL_HASH_BYTES; i++) {
        put_character(writer, digits[hash[i] >> 4]);
        put_character(writer, digits[hash[i] & 15]);
    }
}

static void put_number(text_writer *writer, uint32_t number)
{
    uint32_t power = 1;
    while (number / power >= 10) {
        power *= 10;
    }
    for (; power > 0; power /= 10) {
        put_character(writer, (char)('0' + number / power % 10));
    }
}

static text_writer begin_topic(const char *federation, char *topic, uint32_t capacity)
{
    text_writer writer = {topic, capacity, 0};
    put_text(&writer, "sanderling/1/");
    put_text(&writer, federation);
    return writer;
}

static sl_status end_topic(text_writer *writer)
{
    put_character(writer, '\0');
    return writer->size <= writer->capacity ? SL_OK : SL_NO_SPACE;
}

sl_status sl_topic_plan(const char *federation, char *topic, uint32_t capacity)
{
    if (!sl_is_name(federation)) {
        return SL_MALFORMED;
    }
    text_writer writer = begin_topic(federation, topic, capacity);
    put_text(&writer, "/plan");
    return end_topic(&writer);
}

sl_status sl_topic_model(const char *federation, const uint8_t *model_hash, char *topic, uint32_t capacity)
{
    if (!sl_is_name(federation)) {
        return SL_MALFORMED;
    }
    text_writer writer = begin_topic(federation, topic, capacity);
    put_text(&writer, "/model/");
    put_hash(&writer, model_hash);
    return end_topic(&writer);
}

sl_status sl_topic_chunk(const char *federation, const uint8_t *model_hash, uint32_t size, uint32_t index, char *topic,
                         uint32_t capacity)
{
    if (!sl_is_name(federation)) {
        return SL_MALFORMED;
    }
    text_writer writer = begin_topic(federation, topic, capacity);
    put_text(&writer, "/model/");
    put_hash(&writer, model_hash);
    put_text(&writer, "/chunk/");
    put_number(&writer, size);
    put_character(&writer, '/');
    put_number(&writer, index);
    return end_topic(&writer);
}

sl_status sl_topic_device(const char *federation, const char *device, const char *leaf, char *topic, uint32_t capacity)
{
    if (!sl_is_name(federation) || !sl_is_name(device)) {
        return SL_MALFORMED;
    }
    text_writer writer = begin_topic(federation, topic, capacity);
    put_text(&writer, "/device/");
    put_text(&writer, device);
    put_character(&writer, '/');
    put_text(&writer, leaf);
    return end_topic(&writer);
}
