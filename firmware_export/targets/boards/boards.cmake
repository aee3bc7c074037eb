# The boards: sources, memory, linker script. Sizes given by the user take the place of the board's.
set(common "${CMAKE_CURRENT_LIST_DIR}/common")
set(BARE_METAL TRUE)

macro(memory flash flash_size ram ram_size) # origins, and bytes
    set(board_memory ${flash} ${flash_size} ${ram} ${ram_size})
endmacro()

if(SANDERLING_BOARD STREQUAL "host")
    set(folder "${CMAKE_CURRENT_LIST_DIR}/host")
    set(BARE_METAL FALSE)
elseif(SANDERLING_BOARD MATCHES "^mps[23]-an(385|386|500|505|547)$")
    set(folder "${CMAKE_CURRENT_LIST_DIR}/qemu")
    set(script qemu.ld)
    string(TOUPPER "BOARD_${SANDERLING_BOARD}" definition)
    string(REPLACE "-" "_" SANDERLING_BOARD_DEFINITIONS "${definition}")
    if(SANDERLING_BOARD STREQUAL "mps2-an505")
        memory(0x10000000 4194304 0x38000000 4194304)
    elseif(SANDERLING_BOARD STREQUAL "mps3-an547")
        memory(0x10000000 524288 0x31000000 4194304)
    else()
        memory(0x00000000 4194304 0x20000000 4194304)
    endif()
elseif(SANDERLING_BOARD STREQUAL "nucleo-f446re")
    # Sector 0 holds the vectors, 1 to 3 and 7 are storage: 320 KB are left for the program.
    set(folder "${CMAKE_CURRENT_LIST_DIR}/nucleo-f446re")
    set(script nucleo-f446re.ld)
    memory(0x08010000 327680 0x20000000 131072)
elseif(SANDERLING_BOARD STREQUAL "nano33ble")
    # The Arduino boot loader has the first 64 KB, storage the last 64 KB.
    set(folder "${CMAKE_CURRENT_LIST_DIR}/nano33ble")
    set(script nano33ble.ld)
    memory(0x00010000 917504 0x20000000 262144)
elseif(EXISTS "${SANDERLING_BOARD}/board.cmake")
    set(folder "${SANDERLING_BOARD}")
    include("${SANDERLING_BOARD}/board.cmake") # calls memory(), sets script
else()
    message(FATAL_ERROR "unknown board '${SANDERLING_BOARD}'; set SANDERLING_BOARD to host, mps2-an385, mps2-an386, "
        "mps2-an500, mps2-an505, mps3-an547, nucleo-f446re, nano33ble, or to the folder of your port (with board.cmake)")
endif()

set(SANDERLING_BOARD_SOURCES "${folder}/board.c")
if(BARE_METAL)
    list(APPEND SANDERLING_BOARD_SOURCES "${common}/startup.c")
    list(GET board_memory 0 flash)
    list(GET board_memory 1 flash_size)
    list(GET board_memory 2 ram)
    list(GET board_memory 3 ram_size)
    if(SANDERLING_FLASH)
        set(flash_size ${SANDERLING_FLASH})
    endif()
    if(SANDERLING_SRAM)
        set(ram_size ${SANDERLING_SRAM})
    endif()
    set(SANDERLING_BOARD_LINK_OPTIONS
        "-T${folder}/${script}" "-L${common}"
        "-Wl,--defsym=__flash=${flash}" "-Wl,--defsym=__flash_size=${flash_size}"
        "-Wl,--defsym=__ram=${ram}" "-Wl,--defsym=__ram_size=${ram_size}"
        "-Wl,--defsym=__stack_size=${SANDERLING_STACK}"
        "-Wl,--gc-sections" "-Wl,--print-memory-usage" "-Wl,-Map=$<TARGET_FILE:$<TARGET_PROPERTY:NAME>>.map")
else()
    set(SANDERLING_BOARD_LIBRARIES m)
endif()
