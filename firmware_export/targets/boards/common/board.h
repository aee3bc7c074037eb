/* What an application needs of its board beyond the port: to start, to sleep, to be told options, and on a bench to end. */
#ifndef SANDERLING_BOARD_H
#define SANDERLING_BOARD_H

#include "sanderling/port.h"

/* Clock, timer, link and log; call it first. The port lives as long as the program. */
const sl_port *board_start(void);

/* Sleeps until the next interrupt: a byte arrived, or a millisecond passed. */
void board_idle(void);

/* The text after `name=` on the command line of a bench; NULL where there is none, and always on a real board. */
const char *board_option(const char *name);

/* Ends a bench with a status; a real board stops here until it is reset. */
_Noreturn void board_exit(int status);

/* The most bytes of stack that were in use since board_paint_stack(); 0 where the board cannot tell. */
void board_paint_stack(void);
uint32_t board_stack_used(void);

/* Marks a place in the program for whoever counts instructions; interrupts stay away from then on. */
void board_mark(void);

/* The application: what startup calls. Returns the status to exit with. */
int application(void);

#endif
