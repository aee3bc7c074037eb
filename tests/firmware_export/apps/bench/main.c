/* What the tests ask of a board's port, one `do=` after the other's name. */
#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "sanderling/storage.h"

/* Sends back `size` bytes of the link. */
static int echo(const sl_port *port, int32_t size)
{
    uint8_t bytes[64];
    while (size > 0) {
        int32_t got = port->read(port->context, bytes, sizeof bytes);
        for (int32_t sent = 0; sent < got;) {
            sent += port->write(port->context, bytes + sent, (uint32_t)(got - sent));
        }
        size -= got;
        board_idle();
    }
    return 0;
}

/* Adds one to a number that outlives a loss of power, and exits with it. */
static int count(const sl_port *port)
{
    sl_record record;
    uint8_t value = 0;
    if (sl_record_open(&record, port, 0) != SL_OK) {
        return 90;
    }
    if (record.size > 0 && sl_record_read(&record, 0, &value, 1) != SL_OK) {
        return 91;
    }
    value++;
    if (sl_record_begin(&record) != SL_OK || sl_record_append(&record, &value, 1) != SL_OK ||
        sl_record_commit(&record) != SL_OK) {
        return 92;
    }
    return value;
}

/* Waits for a sample of three values and logs how it came. */
static int sample(const sl_port *port)
{
    float window[3];
    sl_sample about;
    sl_status status = SL_PENDING;
    while (status == SL_PENDING) {
        status = port->sample(port->context, window, 3, &about);
        board_idle();
    }
    port->log(port->context, sl_status_name(status));
    return status == SL_OK ? (int)about.label + (int)about.split + (int)(window[0] + window[1] + window[2]) : 80;
}

/* Two draws of random bytes differ. */
static int draw(const sl_port *port)
{
    uint8_t first[16], second[16];
    if (port->random(port->context, first, 16) != SL_OK || port->random(port->context, second, 16) != SL_OK) {
        return 81;
    }
    return memcmp(first, second, 16) == 0;
}

static int wait_ms(const sl_port *port, uint32_t duration)
{
    uint32_t begun = port->now_ms(port->context);
    while (port->now_ms(port->context) - begun < duration) {
        board_idle();
    }
    return 0;
}

/* Uses about a kilobyte of stack. */
static __attribute__((noinline)) int deep(void)
{
    volatile uint8_t bytes[1000];
    for (uint32_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = 1;
    }
    return bytes[999];
}

static int stack(void)
{
    board_paint_stack();
    uint32_t before = board_stack_used();
    deep();
    uint32_t after = board_stack_used();
    return before < 500 && after - before > 900 && after - before < 1100 ? 0 : 1;
}

/* 1,000 passes of a loop of a few instructions. */
static int loop(void)
{
    board_mark();
    board_mark();
    for (uint32_t i = 0; i < 1000; i++) {
        __asm volatile("nop\n nop\n nop");
    }
    board_mark();
    board_mark();
    return 0;
}

int application(void)
{
    const sl_port *port = board_start();
    const char *what = board_option("do");
    if (what == NULL) {
        return 70;
    }
    switch (what[0]) {
    case 'e':
        return echo(port, atoi(board_option("size")));
    case 'c':
        return count(port);
    case 's':
        return sample(port);
    case 'd':
        return draw(port);
    case 'w':
        return wait_ms(port, (uint32_t)atoi(board_option("duration")));
    case 'u':
        return stack();
    case 'l':
        return loop();
    case 'f':
        *(volatile uint32_t *)0xF0000001u = 1; /* no memory there */
        return 0;
    default:
        return 71;
    }
}
