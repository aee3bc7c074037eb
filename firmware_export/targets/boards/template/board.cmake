# Your board: where flash and SRAM begin and their sizes in bytes, from its data sheet, and the linker script.
memory(0x08000000 524288 0x20000000 131072)
set(script board.ld)
