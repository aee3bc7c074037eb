set(SANDERLING_CPU "-mcpu=cortex-m0plus -mfloat-abi=soft")
include("${CMAKE_CURRENT_LIST_DIR}/arm-none-eabi.cmake")
