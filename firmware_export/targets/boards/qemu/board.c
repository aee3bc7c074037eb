/* The port of QEMU's boards: MPS2 with AN385 (Cortex-M3), AN386 (M4F), AN500 (M7), AN505 (M33), MPS3 with AN547 (M55).

   UART0 is the link; UART1 writes the log and takes samples. What else a bench needs comes over semihosting: options on
   the command line, storage in a file of the host (storage=FILE), random bytes from one (random=FILE, else /dev/urandom,
   since these boards have no source of their own). storage_fails=N ends the program in the middle of the Nth write or
   erasure, with status 99: a loss of power. */
#include "board.h"

#include <stdlib.h>
#include <string.h>

#include "ring.h"
#include "sanderling/storage.h"

typedef struct {
    volatile uint32_t data, state, control, interrupt, baud_divider;
} cmsdk_uart;

enum { UART_FULL = 1, UART_WAITING = 2, UART_ON = 3, UART_RECEIVE_INTERRUPT = 8, UART_RECEIVED = 2 };

static const struct {
    cmsdk_uart *link, *log;
    uint32_t clock_hz;
    uint8_t link_interrupt, log_interrupt;
} board = {
#if defined(BOARD_MPS3_AN547)
    (cmsdk_uart *)0x59303000, (cmsdk_uart *)0x59304000, 32000000, 33, 35,
#elif defined(BOARD_MPS2_AN505)
    (cmsdk_uart *)0x50200000, (cmsdk_uart *)0x50201000, 20000000, 32, 34,
#else
    (cmsdk_uart *)0x40004000, (cmsdk_uart *)0x40005000, 25000000, 0, 2,
#endif
};

typedef struct {
    volatile uint32_t control, reload, value;
} systick;

enum {
    SYS_OPEN = 0x01,
    SYS_WRITE = 0x05,
    SYS_READ = 0x06,
    SYS_SEEK = 0x0A,
    SYS_FLEN = 0x0C,
    SYS_GET_CMDLINE = 0x15,
    SYS_EXIT_EXTENDED = 0x20,
    ADP_APPLICATION_EXIT = 0x20026,
    OPEN_READ = 1,
    OPEN_UPDATE = 3,
    OPEN_CREATE = 7,
    AREA_BYTES = 65536,
    POWER_LOST = 99,
    NO_FILE = -1,
    SAMPLE_TIMEOUT_MS = 1000
};

static volatile uint32_t milliseconds;
static ring link_bytes, sample_bytes;
static char command_line[512];
static intptr_t storage_file = NO_FILE, random_file = NO_FILE;
static uint32_t storage_changes, storage_fails;

static intptr_t semihosting(int32_t operation, const void *arguments)
{
    register intptr_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = arguments;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static intptr_t host_open(const char *name, int32_t mode)
{
    const uintptr_t arguments[] = {(uintptr_t)name, (uintptr_t)mode, strlen(name)};
    return semihosting(SYS_OPEN, arguments);
}

/* Both return true when every byte moved. */
static bool host_move(int32_t operation, intptr_t file, const void *bytes, uint32_t size)
{
    const uintptr_t arguments[] = {(uintptr_t)file, (uintptr_t)bytes, size};
    return semihosting(operation, arguments) == 0;
}

static bool host_seek(intptr_t file, uint32_t offset)
{
    const uintptr_t arguments[] = {(uintptr_t)file, offset};
    return semihosting(SYS_SEEK, arguments) == 0;
}

void board_tick(void)
{
    milliseconds++;
}

static void receive(cmsdk_uart *uart, ring *to)
{
    uart->interrupt = UART_RECEIVED;
    while ((uart->state & UART_WAITING) != 0 && !ring_full(to)) {
        ring_put(to, (uint8_t)uart->data);
    }
    if (ring_full(to)) {
        uart->control = UART_ON; /* until there is room again: QEMU waits, a real UART would lose bytes */
    }
}

void board_interrupt(void)
{
    receive(board.link, &link_bytes);
    receive(board.log, &sample_bytes);
}

static int32_t take(cmsdk_uart *uart, ring *from, uint8_t *bytes, uint32_t size)
{
    int32_t taken = ring_take(from, bytes, size);
    if (uart->control == UART_ON) {
        __asm volatile("cpsid i");
        uart->control = UART_ON | UART_RECEIVE_INTERRUPT;
        receive(uart, from);
        __asm volatile("cpsie i");
    }
    return taken;
}

static int32_t link_read(void *context, uint8_t *bytes, uint32_t size)
{
    (void)context;
    return take(board.link, &link_bytes, bytes, size);
}

static int32_t link_write(void *context, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    uint32_t written = 0;
    while (written < size && (board.link->state & UART_FULL) == 0) {
        board.link->data = bytes[written++];
    }
    return (int32_t)written;
}

static uint32_t now_ms(void *context)
{
    (void)context;
    return milliseconds;
}

static sl_status host_random(void *context, uint8_t *bytes, uint32_t size)
{
    (void)context;
    if (random_file == NO_FILE) {
        const char *name = board_option("random");
        random_file = host_open(name != NULL ? name : "/dev/urandom", OPEN_READ);
    }
    return random_file != NO_FILE && host_move(SYS_READ, random_file, bytes, size) ? SL_OK : SL_RANDOM_FAILED;
}

/* The middle of the change that storage_fails names: half of it has reached the file. */
static uint32_t surviving(uint32_t size)
{
    storage_changes++;
    return storage_changes == storage_fails ? size / 2 : size;
}

static sl_status change(uint32_t area, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    uint32_t part = surviving(size);
    if (storage_file == NO_FILE || !host_seek(storage_file, area * AREA_BYTES + offset) ||
        !host_move(SYS_WRITE, storage_file, bytes, part)) {
        return SL_STORAGE_FAILED;
    }
    if (part < size) {
        board_exit(POWER_LOST);
    }
    return SL_OK;
}

static sl_status storage_read(void *context, uint32_t area, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    (void)context;
    bool read = storage_file != NO_FILE && host_seek(storage_file, area * AREA_BYTES + offset) &&
                host_move(SYS_READ, storage_file, bytes, size);
    return read ? SL_OK : SL_STORAGE_FAILED;
}

static sl_status storage_write(void *context, uint32_t area, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    return change(area, offset, bytes, size);
}

static sl_status storage_erase(void *context, uint32_t area)
{
    (void)context;
    uint8_t blank[256];
    memset(blank, 0xFF, sizeof blank);
    for (uint32_t offset = 0; offset < AREA_BYTES; offset += sizeof blank) {
        sl_status status = change(area, offset, blank, sizeof blank);
        if (status != SL_OK) {
            return status;
        }
        storage_changes--;
    }
    storage_changes++;
    return SL_OK;
}

static void open_storage(void)
{
    const char *name = board_option("storage");
    if (name == NULL) {
        return;
    }
    storage_file = host_open(name, OPEN_UPDATE);
    if (storage_file == NO_FILE) {
        storage_file = host_open(name, OPEN_CREATE);
        for (uint32_t area = 0; area < SL_STORAGE_AREAS; area++) {
            storage_erase(NULL, area);
        }
    }
    const char *fails = board_option("storage_fails");
    storage_fails = fails != NULL ? (uint32_t)atoi(fails) : 0;
    storage_changes = 0;
}

static bool sample_read(void *bytes, uint32_t size)
{
    uint32_t begun = milliseconds;
    for (uint32_t got = 0; got < size;) {
        got += (uint32_t)take(board.log, &sample_bytes, (uint8_t *)bytes + got, size - got);
        if (got < size && milliseconds - begun > SAMPLE_TIMEOUT_MS) {
            return false;
        }
    }
    return true;
}

/* A sample on UART1, little-endian: 'S' 'L', split (1), label (2), count (2), `count` floats, CRC-32 of all that (4). */
static sl_status sample(void *context, float *window, uint32_t count, sl_sample *about)
{
    (void)context;
    uint8_t header[7], check[4];
    if (take(board.log, &sample_bytes, header, 1) == 0) {
        return SL_PENDING;
    }
    if (header[0] != 'S' || !sample_read(header + 1, sizeof header - 1) || header[1] != 'L') {
        return SL_MALFORMED;
    }
    about->split = header[2];
    about->label = (uint16_t)(header[3] | header[4] << 8);
    if ((uint32_t)(header[5] | header[6] << 8) != count) {
        return SL_WRONG_DIMENSION;
    }
    if (!sample_read(window, count * sizeof *window) || !sample_read(check, sizeof check)) {
        return SL_TIMEOUT;
    }
    uint32_t crc = sl_crc32(sl_crc32(0, header, sizeof header), (const uint8_t *)window, count * sizeof *window);
    uint32_t sent = (uint32_t)check[0] | (uint32_t)check[1] << 8 | (uint32_t)check[2] << 16 | (uint32_t)check[3] << 24;
    return crc == sent ? SL_OK : SL_MALFORMED;
}

static void log_line(void *context, const char *line)
{
    (void)context;
    for (const char *at = line;; at++) {
        while ((board.log->state & UART_FULL) != 0) {
        }
        board.log->data = *at == 0 ? '\n' : (uint8_t)*at;
        if (*at == 0) {
            return;
        }
    }
}

static void start_uart(cmsdk_uart *uart, uint8_t interrupt)
{
    uart->baud_divider = 16;
    uart->control = UART_ON | UART_RECEIVE_INTERRUPT;
    ((volatile uint32_t *)0xE000E100)[interrupt / 32] = 1u << (interrupt % 32); /* NVIC_ISER */
}

const sl_port *board_start(void)
{
    static const sl_port port = {
        .read = link_read,
        .write = link_write,
        .now_ms = now_ms,
        .random = host_random,
        .area_bytes = AREA_BYTES,
        .storage_read = storage_read,
        .storage_write = storage_write,
        .storage_erase = storage_erase,
        .sample = sample,
        .log = log_line,
    };
    const uintptr_t arguments[] = {(uintptr_t)command_line, sizeof command_line};
    semihosting(SYS_GET_CMDLINE, arguments);
    systick *tick = (systick *)0xE000E010;
    tick->reload = board.clock_hz / 1000 - 1;
    tick->value = 0;
    tick->control = 7; /* the processor's clock, an interrupt, on */
    start_uart(board.link, board.link_interrupt);
    start_uart(board.log, board.log_interrupt);
    open_storage();
    return &port;
}

void board_idle(void)
{
    __asm volatile("cpsid i");
    if (ring_empty(&link_bytes) && ring_empty(&sample_bytes)) {
        __asm volatile("wfi");
    }
    __asm volatile("cpsie i");
}

/* The value ends at the next space; the command line is cut there, so that each value is a text of its own. */
const char *board_option(const char *name)
{
    size_t length = strlen(name);
    for (char *at = command_line; *at != 0; at += strlen(at) + 1) {
        char *space = strchr(at, ' ');
        if (space != NULL) {
            *space = 0;
        }
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            return at + length + 1;
        }
    }
    return NULL;
}

void board_exit(int status)
{
    const uintptr_t arguments[] = {ADP_APPLICATION_EXIT, (uintptr_t)status};
    for (;;) {
        semihosting(SYS_EXIT_EXTENDED, arguments);
    }
}
