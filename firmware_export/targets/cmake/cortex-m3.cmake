set(SANDERLING_CPU "-mcpu=cortex-m3 -mfloat-abi=soft")
include("${CMAKE_CURRENT_LIST_DIR}/arm-none-eabi.cmake")
