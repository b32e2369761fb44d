# 64-bit Arm Linux, cross-compiled (Debian: g++-aarch64-linux-gnu).
#
# EDGELLM_SYSROOT: C and C++ libraries of the oldest system to run on (Debian 11: glibc 2.31, as on
# Raspberry Pi OS 11). Without it the compiler's own are linked, whose startup code alone asks for
# glibc 2.34 (__libc_start_main).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(triple aarch64-linux-gnu)
if(NOT CMAKE_CXX_COMPILER)
  set(CMAKE_CXX_COMPILER ${triple}-g++)
endif()
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EDGELLM_SYSROOT)

if(EDGELLM_SYSROOT)
  # Debian's cross compiler finds its own newer libraries before those of --sysroot, so every folder
  # is named here; only the compiler's builtin headers and libgcc stay its own.
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=include
    OUTPUT_VARIABLE builtin OUTPUT_STRIP_TRAILING_WHITESPACE)
  file(GLOB standard "${EDGELLM_SYSROOT}/usr/include/c++/*")
  file(GLOB gcc "${EDGELLM_SYSROOT}/usr/lib/gcc/${triple}/*")
  get_filename_component(version "${standard}" NAME)
  string(CONCAT CMAKE_CXX_FLAGS_INIT
    "--sysroot=${EDGELLM_SYSROOT} -nostdinc -nostdinc++ "
    "-isystem ${standard} -isystem ${EDGELLM_SYSROOT}/usr/include/${triple}/c++/${version} "
    "-isystem ${standard}/backward -isystem ${builtin} "
    "-isystem ${EDGELLM_SYSROOT}/usr/include/${triple} -isystem ${EDGELLM_SYSROOT}/usr/include")
  string(CONCAT link
    "-B${EDGELLM_SYSROOT}/usr/lib/${triple} -L${gcc} -L${EDGELLM_SYSROOT}/usr/lib/${triple} "
    "-L${EDGELLM_SYSROOT}/lib/${triple} -Wl,-rpath-link,${EDGELLM_SYSROOT}/lib/${triple} "
    "-Wl,-rpath-link,${EDGELLM_SYSROOT}/usr/lib/${triple}")
  set(CMAKE_EXE_LINKER_FLAGS_INIT "${link}")
  set(CMAKE_SHARED_LINKER_FLAGS_INIT "${link}")
endif()
