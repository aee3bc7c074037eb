/* A node of the federation: it takes the newest plan, fetches the model that the plan names, trains on its own examples,
   stores its report, and only then publishes it. The rules are those of edge_runtime/agent.py; docs/wire.md.

   The caller owns all memory and calls sl_agent_poll for ever; a call takes as long as a round of training at most. */
#ifndef SANDERLING_AGENT_H
#define SANDERLING_AGENT_H

#include "sanderling/base.h"
#include "sanderling/download.h"
#include "sanderling/flashed_model.h"
#include "sanderling/frame.h"
#include "sanderling/guard.h"
#include "sanderling/intake.h"
#include "sanderling/messages.h"
#include "sanderling/model_store.h"
#include "sanderling/mqtt.h"
#include "sanderling/port.h"
#include "sanderling/storage.h"
#include "sanderling/trainer.h"

enum { SL_AGENT_RECORD_HEAD_BYTES = 96 };

/* Who the node is, and the memory that it works in. Kept by reference. */
typedef struct {
    const char *federation;
    const char *device;
    const char *software;       /* for the status, at most 64 characters */
    bool framed;                /* the link is a serial line to a gateway; false: a clean byte stream to the broker */
    uint16_t keep_alive_s;      /* longer than a round of training takes */
    const sl_port *port;
    const sl_flashed_model *model;
    sl_intake *intake;          /* the device's examples: empty at first, with room for SL_SELF_TEST_EXAMPLES */
    const sl_guard *guard;      /* NULL: messages in plain text */
    const sl_blinding *blinding; /* NULL: updates that the coordinator can read one by one */

    int16_t *start;             /* of the head's dimension: the round's model */
    void *scratch;              /* sl_train_scratch_bytes and sl_self_test_scratch_bytes, aligned to 8; may be the
                                   intake's arena: they take turns */
    uint32_t scratch_bytes;
    sl_residual *residual;      /* of top-k updates, and the next one; NULL: plans that ask for those are not served */
    sl_residual *left_over;
    uint8_t *message;           /* a whole report: SL_UPDATE_HEAD_BYTES and a payload */
    uint32_t message_bytes;
    uint8_t *chunk;             /* a whole message that comes, declared to the coordinator: at least SL_MIN_CHUNK_BYTES */
    uint32_t chunk_bytes;
    uint8_t *queue;             /* small packets that go out */
    uint32_t queue_bytes;
} sl_agent_config;

/* What a plan asks, and a report answers; without a run it is nothing. */
typedef struct {
    char run[65];
    uint8_t phase;
    uint32_t round;
} sl_question;

typedef struct {
    const sl_agent_config *config;
    sl_learner learner;
    uint8_t boot[8];
    bool joins;                  /* its arithmetic is the federation's */
    bool finished;               /* the federation is, and this node has nothing left to tell it */

    /* The link. */
    sl_frame_link frame;
    sl_mqtt_settings mqtt_settings;
    sl_mqtt mqtt;
    bool open;                   /* CONNECT was sent on this stream */
    bool opening;                /* the gateway was asked for a stream */
    uint32_t failures;           /* in a row */
    uint32_t retry_at;           /* in ms: when the next attempt is due */

    /* What the federation wants. */
    sl_plan_reader reader;
    sl_plan plan;
    bool planned;                /* there is a plan */
    bool subscribed;             /* to plans, on this connection */
    bool subscribing;
    bool fetching;               /* a download is going on */
    bool chunk_subscribed;
    sl_download download;
    sl_model_store store;

    /* What the node answers. */
    sl_question answered;
    sl_record record;            /* of that report */
    uint32_t report_size;        /* in `message`; 0: there is none */
    bool delivered;
    bool reporting;              /* it is on its way */
    sl_question abstained;
    sl_status problem;           /* why the node abstains, for its status */
    uint32_t evaluated;          /* of the plan's models */
    sl_evaluation_result results[8];

    bool announce;               /* a status is due */
    bool announcing;             /* it is on its way */
    uint32_t status_size;
    uint8_t status[192];
    uint32_t refused;            /* messages, each logged with its reason */
    char topic_chunk[192];
    char topic_out[192];         /* of the message on its way */
} sl_agent;

/* Restores what storage holds and tests the arithmetic: a node whose arithmetic differs is polled like any other, but does
   not join, and says so in its status. SL_MALFORMED for names that are none, SL_NO_SPACE for memory that is too small,
   SL_OUT_OF_ORDER where samples were taken already, SL_STORAGE_FAILED, SL_RANDOM_FAILED. */
sl_status sl_agent_start(sl_agent *agent, const sl_agent_config *config);

/* Moves bytes, takes a sample, does what is due. SL_OK, or SL_PENDING where nothing was to be done. */
sl_status sl_agent_poll(sl_agent *agent);

#endif
