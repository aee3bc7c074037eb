/* The bench application on the machine at hand: options from the command line, the log on stdout, nothing else. */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int argument_count;
static char **arguments;

static void log_line(void *context, const char *line)
{
    (void)context;
    puts(line);
}

const sl_port *board_start(void)
{
    static const sl_port port = {.log = log_line};
    return &port;
}

void board_idle(void)
{
}

const char *board_option(const char *name)
{
    size_t length = strlen(name);
    for (int i = 1; i < argument_count; i++) {
        if (strncmp(arguments[i], name, length) == 0 && arguments[i][length] == '=') {
            return arguments[i] + length + 1;
        }
    }
    return NULL;
}

void board_exit(int status)
{
    exit(status);
}

void board_paint_stack(void)
{
}

uint32_t board_stack_used(void)
{
    return 0;
}

void board_mark(void)
{
}

int main(int count, char **values)
{
    argument_count = count;
    arguments = values;
    return application();
}
