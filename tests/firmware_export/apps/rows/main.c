/* Writes the checksum in hexadecimal: on this machine, or bare on a Cortex-M through semihosting. */
#include "checksum.h"

#if defined(__arm__)

enum { SYS_WRITE0 = 0x04, SYS_EXIT = 0x18, APPLICATION_EXIT = 0x20026 };

static void ask_debugger(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ __volatile__("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

static void reset(void)
{
    char text[9] = {0};
    const uint32_t sum = checksum();
    for (uint32_t i = 0; i < 8; i++) {
        text[i] = "0123456789abcdef"[sum >> (28 - 4 * i) & 15];
    }
    ask_debugger(SYS_WRITE0, text);
    ask_debugger(SYS_EXIT, (const void *)APPLICATION_EXIT);
}

extern const uint32_t stack_top[];

const void *const vectors[2] __attribute__((section(".vectors"), used)) = {stack_top, (const void *)reset};

#else

#include <stdio.h>

int main(void)
{
    printf("%08x", (unsigned)checksum());
    return 0;
}

#endif
