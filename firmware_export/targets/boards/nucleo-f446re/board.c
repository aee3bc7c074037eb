/* Port template of the Nucleo-F446RE (STM32F446RE): registers from ST RM0390. Status: compiled, never run on the board.

   The link is USART2 on PA2 and PA3, which the on-board ST-LINK shows the PC as a serial port: 115,200 baud, framed
   (`sanderling gateway serial`). Fill in sample() with your sensor, and random() with a source of your own: this
   microcontroller has none. The core runs at 16 MHz from its internal oscillator; raise it as your power budget allows. */
#include "board.h"

#include <string.h>

#include "ring.h"

typedef struct {
    volatile uint32_t access, key, option_key, status, control;
} flash_registers; /* FLASH, RM0390 3.8 */

typedef struct {
    volatile uint32_t status, data, baud_rate, control1, control2, control3;
} usart_registers; /* USART, 25.6 */

typedef struct {
    volatile uint32_t mode, type, speed, pull, input, output, set, lock, alternate_low, alternate_high;
} gpio_registers; /* GPIO, 7.4 */

#define FLASH_UNIT ((flash_registers *)0x40023C00)
#define USART2 ((usart_registers *)0x40004400)
#define GPIOA ((gpio_registers *)0x40020000)
#define RCC_AHB1ENR (*(volatile uint32_t *)0x40023830)
#define RCC_APB1ENR (*(volatile uint32_t *)0x40023840)
#define SYSTICK ((volatile uint32_t *)0xE000E010)
#define NVIC_ISER ((volatile uint32_t *)0xE000E100)

enum {
    CLOCK_HZ = 16000000,
    BAUD = 115200,
    USART2_INTERRUPT = 38,
    USART_RECEIVED = 1 << 5,
    USART_SPACE = 1 << 7,
    USART_ON = 1 << 13 | 1 << 5 | 1 << 3 | 1 << 2, /* UE, RXNEIE, TE, RE */
    FLASH_BUSY = 1 << 16,
    FLASH_ERRORS = 0xF2,
    FLASH_PROGRAM = 1 << 0,
    FLASH_ERASE = 1 << 1,
    FLASH_WORDS = 2 << 8, /* 32 bits at once, 2.7 to 3.6 V */
    FLASH_START = 1 << 16,
    AREA_BYTES = 16384
};

static volatile uint32_t milliseconds;
static ring link_bytes;
static const uint32_t area_address[SL_STORAGE_AREAS] = {0x08004000, 0x08008000, 0x0800C000, 0x08060000};
static const uint8_t area_sector[SL_STORAGE_AREAS] = {1, 2, 3, 7};

void board_tick(void)
{
    milliseconds++;
}

void board_interrupt(void)
{
    while ((USART2->status & USART_RECEIVED) != 0) {
        uint8_t byte = (uint8_t)USART2->data;
        if (!ring_full(&link_bytes)) {
            ring_put(&link_bytes, byte); /* else it is lost: the frame's CRC notices, and it is sent again */
        }
    }
}

static int32_t link_read(void *context, uint8_t *bytes, uint32_t size)
{
    (void)context;
    return ring_take(&link_bytes, bytes, size);
}

static int32_t link_write(void *context, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    uint32_t written = 0;
    while (written < size && (USART2->status & USART_SPACE) != 0) {
        USART2->data = bytes[written++];
    }
    return (int32_t)written;
}

static uint32_t now_ms(void *context)
{
    (void)context;
    return milliseconds;
}

static sl_status no_random(void *context, uint8_t *bytes, uint32_t size)
{
    (void)context;
    (void)bytes;
    (void)size;
    return SL_RANDOM_FAILED;
}

static sl_status storage_read(void *context, uint32_t area, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    (void)context;
    memcpy(bytes, (const uint8_t *)area_address[area] + offset, size);
    return SL_OK;
}

/* RM0390 3.5: unlock, ask, wait, lock. The core stands still while its flash is busy. */
static void flash_begin(uint32_t what)
{
    FLASH_UNIT->key = 0x45670123;
    FLASH_UNIT->key = 0xCDEF89AB;
    FLASH_UNIT->status = FLASH_ERRORS;
    FLASH_UNIT->control = FLASH_WORDS | what;
}

static sl_status flash_end(void)
{
    while ((FLASH_UNIT->status & FLASH_BUSY) != 0) {
    }
    FLASH_UNIT->control = 0x80000000u;
    return (FLASH_UNIT->status & FLASH_ERRORS) == 0 ? SL_OK : SL_STORAGE_FAILED;
}

static sl_status storage_write(void *context, uint32_t area, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    flash_begin(FLASH_PROGRAM);
    for (uint32_t i = 0; i < size; i += 4) {
        uint32_t word;
        memcpy(&word, bytes + i, sizeof word);
        *(volatile uint32_t *)(area_address[area] + offset + i) = word;
        while ((FLASH_UNIT->status & FLASH_BUSY) != 0) {
        }
    }
    return flash_end();
}

static sl_status storage_erase(void *context, uint32_t area)
{
    (void)context;
    flash_begin(FLASH_ERASE | (uint32_t)area_sector[area] << 3);
    FLASH_UNIT->control |= FLASH_START;
    return flash_end();
}

static sl_status sample(void *context, float *window, uint32_t count, sl_sample *about)
{
    (void)context;
    (void)window;
    (void)count;
    (void)about;
    return SL_PENDING; /* your sensor */
}

static void log_line(void *context, const char *line)
{
    (void)context;
    (void)line; /* the one serial port is the link's */
}

const sl_port *board_start(void)
{
    static const sl_port port = {
        .read = link_read,
        .write = link_write,
        .now_ms = now_ms,
        .random = no_random,
        .area_bytes = AREA_BYTES,
        .storage_read = storage_read,
        .storage_write = storage_write,
        .storage_erase = storage_erase,
        .sample = sample,
        .log = log_line,
    };
    RCC_AHB1ENR |= 1u << 0;                                              /* GPIOA */
    RCC_APB1ENR |= 1u << 17;                                             /* USART2 */
    GPIOA->mode = (GPIOA->mode & ~(0xFu << 4)) | 0xAu << 4;              /* PA2, PA3: alternate function */
    GPIOA->alternate_low = (GPIOA->alternate_low & ~(0xFFu << 8)) | 0x77u << 8; /* number 7 */
    USART2->baud_rate = (CLOCK_HZ + BAUD / 2) / BAUD;
    USART2->control1 = USART_ON;
    NVIC_ISER[USART2_INTERRUPT / 32] = 1u << (USART2_INTERRUPT % 32);
    SYSTICK[1] = CLOCK_HZ / 1000 - 1;
    SYSTICK[2] = 0;
    SYSTICK[0] = 7;
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
