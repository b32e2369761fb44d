# 64-bit Arm Android, with the NDK that ANDROID_NDK or ANDROID_NDK_HOME names (27 or newer). Tier 3: never built in CI.
# ExecuTorch for it has to be built from source: no package holds it. executorch_ROOT names its folder.
set(ndk "$ENV{ANDROID_NDK}")
if(NOT ndk)
  set(ndk "$ENV{ANDROID_NDK_HOME}")
endif()
if(NOT EXISTS "${ndk}/build/cmake/android.toolchain.cmake")
  message(FATAL_ERROR "No Android NDK: set ANDROID_NDK or ANDROID_NDK_HOME to its folder.")
endif()
set(ANDROID_ABI arm64-v8a)
set(ANDROID_PLATFORM android-28)
set(ANDROID_STL c++_shared)
set(ANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES ON) # Android 15 devices may have pages of 16 KB
include("${ndk}/build/cmake/android.toolchain.cmake")
