# 64-bit Arm Android, with the NDK that ANDROID_NDK or ANDROID_NDK_HOME names (27 or newer).
#
# Tier 3: nothing was ever built with this file. It needs an ExecuTorch built with the same NDK, which no
# package holds, as executorch_ROOT; CMakeLists.txt asks for the shared libraries and the targets
# (executorch::runtime, ...) that ExecuTorch's packages have, and a build from source names its targets otherwise.
set(ndk "$ENV{ANDROID_NDK}")
if(NOT ndk)
  set(ndk "$ENV{ANDROID_NDK_HOME}")
endif()
if(NOT EXISTS "${ndk}/build/cmake/android.toolchain.cmake")
  message(FATAL_ERROR "No Android NDK: set ANDROID_NDK or ANDROID_NDK_HOME to its folder.")
endif()
set(ANDROID_ABI arm64-v8a)
set(ANDROID_PLATFORM android-24) # as targets/android-arm64.toml
set(ANDROID_STL c++_shared)
set(ANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES ON) # Android 15 devices may have pages of 16 KB
include("${ndk}/build/cmake/android.toolchain.cmake")
# The NDK's file looks for packages in its own sysroot only: executorch_ROOT lies outside it.
foreach(kind IN ITEMS LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${kind} BOTH)
endforeach()
