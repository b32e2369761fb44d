// Facts about the machine and this process, as edgellm/runtime/machine.py gives them.
#pragma once

#include "json.h"

namespace edgellm {

OrderedJson machine();

// Processor time of this process over all threads, in milliseconds.
double cpu_ms();

// The largest resident memory so far, in 10^6 bytes.
double peak_rss_mb();

}  // namespace edgellm
