/* Port template of the Arduino Nano 33 BLE (nRF52840): registers from Nordic's Product Specification 1.7. Status: compiled,
   never run on the board.

   The link is the UART on D1 (P1.03, transmit) and D0 (P1.10, receive): 115,200 baud, framed (`sanderling gateway serial`).
   Fill in sample() with your sensor; the board's IMU is an LSM9DS1 on its internal I2C bus. */
#include "board.h"

#include <string.h>

#include "ring.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYSTICK ((volatile uint32_t *)0xE000E010)
#define NVIC_ISER ((volatile uint32_t *)0xE000E100)

/* UART0, Product Specification 6.33; RNG, 6.19; NVMC, 4.3 */
#define UART_START_RECEIVE REGISTER(0x40002000)
#define UART_START_TRANSMIT REGISTER(0x40002008)
#define UART_RECEIVED REGISTER(0x40002108)
#define UART_TRANSMITTED REGISTER(0x4000211C)
#define UART_INTERRUPTS REGISTER(0x40002304)
#define UART_ENABLE REGISTER(0x40002500)
#define UART_TRANSMIT_PIN REGISTER(0x4000250C)
#define UART_RECEIVE_PIN REGISTER(0x40002514)
#define UART_RECEIVE_DATA REGISTER(0x40002518)
#define UART_TRANSMIT_DATA REGISTER(0x4000251C)
#define UART_BAUD_RATE REGISTER(0x40002524)
#define RANDOM_START REGISTER(0x4000D000)
#define RANDOM_STOP REGISTER(0x4000D004)
#define RANDOM_READY REGISTER(0x4000D100)
#define RANDOM_CONFIGURATION REGISTER(0x4000D504)
#define RANDOM_VALUE REGISTER(0x4000D508)
#define FLASH_READY REGISTER(0x4001E400)
#define FLASH_CONFIGURATION REGISTER(0x4001E504)
#define FLASH_ERASE_PAGE REGISTER(0x4001E508)

enum {
    CLOCK_HZ = 64000000,
    BAUD_115200 = 0x01D7E000,
    UART_INTERRUPT = 2,
    TRANSMIT_PIN = 32 + 3,
    RECEIVE_PIN = 32 + 10,
    FLASH_READ_ONLY = 0,
    FLASH_WRITE = 1,
    FLASH_ERASE = 2,
    PAGE_BYTES = 4096,
    AREA_BYTES = 4 * PAGE_BYTES,
    STORAGE = 0x000F0000 /* the last 64 KB of 1 MB */
};

static volatile uint32_t milliseconds;
static ring link_bytes;
static bool transmitting;

void board_tick(void)
{
    milliseconds++;
}

void board_interrupt(void)
{
    while (UART_RECEIVED != 0) {
        UART_RECEIVED = 0;
        uint8_t byte = (uint8_t)UART_RECEIVE_DATA;
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
    while (written < size && (!transmitting || UART_TRANSMITTED != 0)) {
        UART_TRANSMITTED = 0;
        transmitting = true;
        UART_TRANSMIT_DATA = bytes[written++];
    }
    return (int32_t)written;
}

static uint32_t now_ms(void *context)
{
    (void)context;
    return milliseconds;
}

static sl_status hardware_random(void *context, uint8_t *bytes, uint32_t size)
{
    (void)context;
    RANDOM_CONFIGURATION = 1; /* bias correction */
    RANDOM_START = 1;
    for (uint32_t i = 0; i < size; i++) {
        RANDOM_READY = 0;
        while (RANDOM_READY == 0) {
        }
        bytes[i] = (uint8_t)RANDOM_VALUE;
    }
    RANDOM_STOP = 1;
    return SL_OK;
}

static uintptr_t address(uint32_t area, uint32_t offset)
{
    return STORAGE + (uintptr_t)area * AREA_BYTES + offset;
}

static void flash_mode(uint32_t mode)
{
    while (FLASH_READY == 0) {
    }
    FLASH_CONFIGURATION = mode;
}

static sl_status storage_read(void *context, uint32_t area, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    (void)context;
    memcpy(bytes, (const uint8_t *)address(area, offset), size);
    return SL_OK;
}

static sl_status storage_write(void *context, uint32_t area, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    flash_mode(FLASH_WRITE);
    for (uint32_t i = 0; i < size; i += 4) {
        uint32_t word;
        memcpy(&word, bytes + i, sizeof word);
        REGISTER(address(area, offset + i)) = word;
        while (FLASH_READY == 0) {
        }
    }
    flash_mode(FLASH_READ_ONLY);
    return memcmp((const uint8_t *)address(area, offset), bytes, size) == 0 ? SL_OK : SL_STORAGE_FAILED;
}

static sl_status storage_erase(void *context, uint32_t area)
{
    (void)context;
    flash_mode(FLASH_ERASE);
    for (uint32_t page = 0; page < AREA_BYTES; page += PAGE_BYTES) {
        FLASH_ERASE_PAGE = (uint32_t)address(area, page);
        while (FLASH_READY == 0) {
        }
    }
    flash_mode(FLASH_READ_ONLY);
    return REGISTER(address(area, 0)) == 0xFFFFFFFFu ? SL_OK : SL_STORAGE_FAILED;
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
        .random = hardware_random,
        .area_bytes = AREA_BYTES,
        .storage_read = storage_read,
        .storage_write = storage_write,
        .storage_erase = storage_erase,
        .sample = sample,
        .log = log_line,
    };
    UART_TRANSMIT_PIN = TRANSMIT_PIN;
    UART_RECEIVE_PIN = RECEIVE_PIN;
    UART_BAUD_RATE = BAUD_115200;
    UART_ENABLE = 4;
    UART_INTERRUPTS = 1u << 2; /* a byte received */
    UART_START_RECEIVE = 1;
    UART_START_TRANSMIT = 1;
    NVIC_ISER[0] = 1u << UART_INTERRUPT;
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
