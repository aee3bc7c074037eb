/* A port to write: fill in what says TODO, from your microcontroller's reference manual; nothing else has to change.

   It compiles as it stands, links, and does nothing: its link is silent, its storage fails, its sensor never has a window.
   sanderling/port.h says what each function owes. Storage may be left out where a node may forget all at a reset. */
#include "board.h"

#include "ring.h"

enum {
    CLOCK_HZ = 16000000, /* TODO: the core's clock after start-up */
    AREA_BYTES = 16384   /* TODO: what is erased as a whole: a flash sector, or some of them */
};

static volatile uint32_t milliseconds;
static ring link_bytes;

void board_tick(void)
{
    milliseconds++;
}

/* Every interrupt of the chip. */
void board_interrupt(void)
{
    /* TODO: while the UART has a byte: if (!ring_full(&link_bytes)) ring_put(&link_bytes, the byte); */
}

static int32_t link_read(void *context, uint8_t *bytes, uint32_t size)
{
    (void)context;
    return ring_take(&link_bytes, bytes, size);
}

static int32_t link_write(void *context, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    (void)bytes;
    (void)size;
    return 0; /* TODO: hand as many bytes to the UART as it takes now; how many */
}

static uint32_t now_ms(void *context)
{
    (void)context;
    return milliseconds;
}

static sl_status random_bytes(void *context, uint8_t *bytes, uint32_t size)
{
    (void)context;
    (void)bytes;
    (void)size;
    return SL_RANDOM_FAILED; /* TODO: your random number generator */
}

static sl_status storage_read(void *context, uint32_t area, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    (void)context;
    (void)area;
    (void)offset;
    (void)bytes;
    (void)size;
    return SL_STORAGE_FAILED; /* TODO */
}

static sl_status storage_write(void *context, uint32_t area, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    (void)area;
    (void)offset;
    (void)bytes;
    (void)size;
    return SL_STORAGE_FAILED; /* TODO: multiples of 8 bytes at multiples of 8 */
}

static sl_status storage_erase(void *context, uint32_t area)
{
    (void)context;
    (void)area;
    return SL_STORAGE_FAILED; /* TODO */
}

static sl_status sample(void *context, float *window, uint32_t count, sl_sample *about)
{
    (void)context;
    (void)window;
    (void)count;
    (void)about;
    return SL_PENDING; /* TODO: your sensor's next window */
}

static void log_line(void *context, const char *line)
{
    (void)context;
    (void)line; /* TODO: a second UART, or nothing */
}

const sl_port *board_start(void)
{
    static const sl_port port = {
        .read = link_read,
        .write = link_write,
        .now_ms = now_ms,
        .random = random_bytes,
        .area_bytes = AREA_BYTES,
        .storage_read = storage_read,
        .storage_write = storage_write,
        .storage_erase = storage_erase,
        .sample = sample,
        .log = log_line,
    };
    /* TODO: clocks, the UART and its receive interrupt */
    volatile uint32_t *systick = (volatile uint32_t *)0xE000E010u; /* the same on every Cortex-M */
    systick[1] = CLOCK_HZ / 1000 - 1;
    systick[2] = 0;
    systick[0] = 7;
    return &port;
}

void board_idle(void)
{
    __asm volatile("wfi"); /* at most a millisecond */
}

const char *board_option(const char *name)
{
    (void)name;
    return NULL;
}

void board_exit(int status)
{
    (void)status;
    for (;;) {
        __asm volatile("wfi");
    }
}
