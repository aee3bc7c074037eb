/* From reset to application() on any Cortex-M: memory, floating point, the stack's watermark. */
#include <stdint.h>
#include <string.h>

#include "board.h"

extern uint32_t __stack_bottom[], __stack_top[], __data_start[], __data_end[], __data_source[], __bss_start[], __bss_end[];
extern char __tls_base[];

void _set_tls(void *tls); /* picolibc: errno lives in thread-local storage */

void reset(void);
void board_tick(void);      /* SysTick */
void board_interrupt(void); /* every interrupt of the chip: the board's code knows which are on */

static const uint32_t PAINT = 0xC5C5C5C5u;
enum { INTERRUPTS = 128 }; /* more than any of our boards has */

_Noreturn static void fault(void)
{
    board_exit(70);
}

__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*system[15])(void);
    void (*external[INTERRUPTS])(void);
} vectors = {
    .stack = __stack_top,
    .system = {reset, fault, fault, fault, fault, fault, fault, NULL, NULL, NULL, fault, fault, NULL, fault, board_tick},
    .external = {[0 ... INTERRUPTS - 1] = board_interrupt},
};

/* Below the frame of the caller, whose own use does not count. */
void board_paint_stack(void)
{
    volatile uint32_t *end = (volatile uint32_t *)__builtin_frame_address(0) - 8;
    for (volatile uint32_t *word = __stack_bottom; word < end; word++) {
        *word = PAINT;
    }
}

uint32_t board_stack_used(void)
{
    const volatile uint32_t *word = __stack_bottom;
    while (word < __stack_top && *word == PAINT) {
        word++;
    }
    return (uint32_t)((const volatile char *)__stack_top - (const volatile char *)word);
}

__attribute__((noinline)) void board_mark(void)
{
    __asm volatile("cpsid i" ::: "memory");
}

__attribute__((section(".reset"), used, noreturn)) void reset(void)
{
    *(volatile uint32_t *)0xE000ED08u = (uint32_t)&vectors; /* VTOR */
#if defined(__ARM_FP) || (defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: coprocessors 10 and 11 */
    __asm volatile("dsb\n isb" ::: "memory");
#endif
    memcpy(__data_start, __data_source, (size_t)((char *)__data_end - (char *)__data_start));
    memset(__bss_start, 0, (size_t)((char *)__bss_end - (char *)__bss_start));
    _set_tls(__tls_base);
    board_paint_stack();
    board_exit(application());
}
