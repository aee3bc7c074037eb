/* The messages of a node and their topics: docs/wire.md, "Topics" and "Messages". Bytes equal broker/messages.py. */
#ifndef SANDERLING_MESSAGES_H
#define SANDERLING_MESSAGES_H

#include "sanderling/base.h"
#include "sanderling/cbor.h"
#include "sanderling/compression.h"
#include "sanderling/head.h"
#include "sanderling/compression.h"
#include "sanderling/head.h"

enum {
    SL_NAME_BYTES = 64,
    SL_HASH_BYTES = 32,
    SL_HASH_PREFIX_BYTES = 8,
    SL_BOOT_BYTES = 8,
    SL_MAX_COHORT = 4096,
    SL_MAX_EVALUATED = 8,
    SL_MAX_DIMENSION = 1 << 20,
    SL_MAX_PLAN_BYTES = 272128,
    SL_MAX_PAYLOAD_BYTES = 1048640,
    SL_UPDATE_HEAD_BYTES = 128, /* of an update, all but its payload takes less */
    SL_STATUS_BYTES = 384,      /* a status takes less */
    SL_TOPIC_BYTES = 192        /* the longest topic, its last zero byte included */
};

enum { SL_PHASE_WAITING = 0, SL_PHASE_ROUND = 1, SL_PHASE_FINISHED = 2 };
enum { SL_ARITHMETIC_EXACT = 0, SL_ARITHMETIC_FAST = 1 };
enum { SL_MODE_MASK = 0, SL_MODE_TOPK = 1 };

/* ------------------------------------------------------------------------------------------------ round plan */

typedef struct {
    uint32_t version;
    uint32_t body_bytes;
    uint32_t network_bytes;
    uint8_t model_hash[32];
    uint8_t network_hash[32];
} sl_model_reference;

typedef struct {
    uint64_t seed;
    uint64_t deadline_ms; /* since 1970; UINT64_MAX where there is none */
    uint32_t round;
    uint8_t phase;
    uint8_t arithmetic;
    uint8_t evaluate_count;
    bool in_cohort;       /* this device is asked */
    sl_training training;
    sl_update_rule update;
    sl_model_reference model;
    sl_model_reference evaluate[8];
    char run[65];
} sl_plan;

/* Reads a plan from pieces of any size, in memory that does not depend on the plan's. */
typedef struct {
    sl_plan plan;
    const char *federation;
    const char *device;
    uint32_t left;          /* bytes of the message that have not come */
    uint32_t fields;        /* of the map, as its head says */
    sl_cbor_head head;
    uint32_t text_size;     /* of the string being read */
    uint32_t text_place;
    uint32_t repeats;       /* items of the list being read that have not come */
    uint8_t list_begin;     /* rules of an item of the list */
    uint8_t list_end;
    uint8_t rule;           /* what is expected next */
    bool in_text;
    bool same;              /* so far the name being read is the one it is compared with */
    bool ours;              /* the federation */
    sl_status status;
} sl_plan_reader;

/* A message of `total` bytes is about to come. The names are kept by reference. SL_TOO_LARGE: it need not be read. */
sl_status sl_plan_begin(sl_plan_reader *reader, const char *federation, const char *device, uint32_t total);

/* The next piece. SL_OK, or the reason for which the message is refused, from then on. */
sl_status sl_plan_feed(sl_plan_reader *reader, const uint8_t *bytes, uint32_t size);

/* All has come. `plan` is written with SL_OK only; SL_MALFORMED, SL_UNKNOWN_VERSION, SL_WRONG_FEDERATION. */
sl_status sl_plan_end(const sl_plan_reader *reader, sl_plan *plan);

/* ------------------------------------------------------------------------------------------------ to the coordinator

   Encoders write a whole message. SL_NO_SPACE where it does not fit, SL_MALFORMED for what may not be sent. */

typedef struct {
    const char *run;
    const uint8_t *model_hash; /* of the base model, 32 bytes */
    uint32_t round;
    uint32_t num_examples;
    uint32_t training_loss_milli;
    uint32_t validation_correct;
    uint32_t validation_count;
    uint32_t validation_loss_milli;
    uint32_t duration_ms;
} sl_update;

/* `payload` may lie inside `message`, wherever. */
sl_status sl_update_encode(const sl_update *update, const uint8_t *payload, uint32_t payload_size, uint8_t *message,
                           uint32_t capacity, uint32_t *size);

typedef struct {
    bool offline;
    uint32_t num_examples;
    uint8_t boot[8];
    const char *backend;  /* ASCII, at most 64 */
    const char *software; /* ASCII, at most 64 */
    const char *detail;   /* ASCII, at most 200 */
    int32_t arithmetic_drift_lsb; /* negative: not measured */
    uint32_t receive_buffer_bytes; /* 0: takes whole model bodies */
} sl_device_status;

sl_status sl_device_status_encode(const sl_device_status *status, uint8_t *message, uint32_t capacity, uint32_t *size);

typedef struct {
    uint8_t model_hash[32];
    uint32_t correct;
    uint32_t examples;
    uint32_t loss_milli;
} sl_evaluation_result;

sl_status sl_evaluation_encode(const char *run, const sl_evaluation_result *results, uint32_t count, uint8_t *message,
                               uint32_t capacity, uint32_t *size);

/* ------------------------------------------------------------------------------------------------ topics

   Each writes a topic of at most SL_TOPIC_BYTES. SL_MALFORMED where a name is none, SL_NO_SPACE. */

/* Whether this is 1 to 64 of A-Z a-z 0-9 . _ - */
bool sl_is_name(const char *text);

sl_status sl_topic_plan(const char *federation, char *topic, uint32_t capacity);
sl_status sl_topic_model(const char *federation, const uint8_t *model_hash, char *topic, uint32_t capacity);
sl_status sl_topic_chunk(const char *federation, const uint8_t *model_hash, uint32_t size, uint32_t index, char *topic,
                         uint32_t capacity);

/* `leaf` is "update", "status" or "evaluation". */
sl_status sl_topic_device(const char *federation, const char *device, const char *leaf, char *topic, uint32_t capacity);

#endif
