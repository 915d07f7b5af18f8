// PyTorch's header of this name, with every operator registered for the CPU in the library vidseg_emulated.
#pragma once

#include_next <torch/csrc/stable/library.h>

#undef STABLE_TORCH_LIBRARY
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY(library, m) STABLE_TORCH_LIBRARY_FRAGMENT(vidseg_emulated, m)
#define STABLE_TORCH_LIBRARY_IMPL(library, device, m) \
    _STABLE_TORCH_LIBRARY_IMPL(vidseg_emulated, CPU, m, C10_UID)
